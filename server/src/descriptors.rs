//! How many connections the process's limit of open files has room for.
//!
//! In: how many are wanted. Out: how many there can be; the soft limit is raised to the hard one first. Failure:
//! none; a limit that cannot be raised stays, and a server that fits fewer connections says so.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but connections: the listener, the runtime, stdio, and some to spare.
const RESERVED: u64 = 64;
/// A connection's socket, and the file that it is sent.
const PER_CONNECTION: u64 = 2;

/// How many of `wanted` connections there is room for.
pub(crate) fn connections(wanted: usize) -> usize {
    let limit = raised();
    let room = room(limit);
    if room < wanted {
        let limit = limit.unwrap_or(u64::MAX);
        log::warn!("at most {room} connections at a time, not {wanted}: the limit of open files is {limit}");
    }
    wanted.min(room)
}

/// At least one, whatever the limit; none stands for no limit.
fn room(limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    usize::try_from(limit.saturating_sub(RESERVED) / PER_CONNECTION).unwrap_or(usize::MAX).max(1)
}

/// The limit that holds from now on.
fn raised() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => now.maximum,
        Err(errno) => {
            log::debug!("raising the limit of open files: {errno}");
            now.current
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_connection_needs_two_descriptors_beside_the_reserve() {
        assert_eq!(room(Some(1024)), 480);
        assert_eq!(room(Some(524_288)), 262_112);
        assert_eq!(room(Some(20)), 1);
        assert_eq!(room(None), usize::MAX);
    }

    #[test]
    fn the_soft_limit_is_the_hard_one_afterwards() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: hard }).unwrap();
        connections(1);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
