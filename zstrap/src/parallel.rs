//! Work on many items on all cores.
//!
//! In: items and what to do with one. Out: the results in the order of the items. Failure: the first error
//! stops the rest; which of several errors comes first depends on timing.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls `work` for every item, as many at a time as there are cores.
pub(crate) fn on_all_cores<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<(usize, anyhow::Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.lock().expect("no worker panics while it holds the lock").push((index, result));
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(worker))));
    let mut results = results.into_inner().expect("no worker panics while it holds the lock");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..1000).collect();
        let squares = on_all_cores(&items, |n| Ok(n * n)).unwrap();
        assert!(squares.iter().zip(&items).all(|(square, n)| *square == n * n));
        assert_eq!(squares.len(), 1000);
    }

    #[test]
    fn the_first_error_stops_the_rest() {
        let items: Vec<u32> = (0..100_000).collect();
        let done = AtomicUsize::new(0);
        let error = on_all_cores(&items, |n| {
            done.fetch_add(1, Ordering::Relaxed);
            if *n == 10 { anyhow::bail!("item {n}") } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().to_string(), "item 10");
        assert!(done.load(Ordering::Relaxed) < 100_000);
    }
}
