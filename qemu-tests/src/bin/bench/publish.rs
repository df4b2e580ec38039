//! `zstrap publish` against `sha256sum` and `md5sum` of coreutils over the same files.
//!
//! In: `out/bin/zstrap`, coreutils, findutils. Out: rows, each the best of some runs with everything in the page
//! cache. Failure: a program that fails, or does not end within its limit.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use zstrap_qemu_tests::artefacts::{artefact, out, patience};

use crate::boot::noise;
use crate::report::{Budget, Report, Row, Unit};
use crate::say;

/// The tree: so many small files of this size on average, and big ones.
const SMALL_FILES: usize = 2_000;
const SMALL_BYTES: usize = 4_000;
const BIG_FILES: usize = 4;
const BIG_BYTES: usize = 50_000_000;

/// Runs of each, the best of which counts: nothing makes a program faster than it is.
const RUNS: usize = 3;

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// How often to look whether a program has ended.
const LOOK: Duration = Duration::from_millis(1);

/// One after the other, as most people do it; and both programs at once, several files at a time, as it goes
/// fastest.
const IN_TURN: &str = "find . -type f -print0 | xargs -0 sha256sum >/dev/null
find . -type f -print0 | xargs -0 md5sum >/dev/null";
const AT_ONCE: &str =
    "find . -type f -print0 | xargs -0 -n 64 -P \"$(nproc)\" sha256sum >/dev/null & other=$!
find . -type f -print0 | xargs -0 -n 64 -P \"$(nproc)\" md5sum >/dev/null
wait $other";

/// Measures publishing.
pub fn measure(report: &mut Report) -> Result<()> {
    say("publishing 2,000 small files and 200 MB of big ones, against sha256sum and md5sum");
    let bench = Bench::make()?;
    let in_turn = best(|_| bench.sums(IN_TURN))?;
    let at_once = best(|_| bench.sums(AT_ONCE))?;
    let hashed = best(|_| bench.publish("none", &["--dry-run"]))?;
    let published = best(|run| bench.publish(&run.to_string(), &[]))?;
    let mut row = |what: &str, figure: f64, peer: f64| {
        let what = what.to_owned();
        report.row(Row { what, unit: Unit::Seconds, figure, peer: Some(peer), budget: Budget::None });
    };
    row("publish; peer: sha256sum, then md5sum", published, in_turn);
    row("publish; peer: both at once, on all cores", published, at_once);
    row("publish --dry-run; peer: sha256sum, then md5sum", hashed, in_turn);
    row("publish --dry-run; peer: both, on all cores", hashed, at_once);
    Ok(())
}

/// The least time of all runs, in seconds.
fn best(mut run: impl FnMut(usize) -> Result<Duration>) -> Result<f64> {
    let times = (0..RUNS).map(&mut run).collect::<Result<Vec<_>>>()?;
    times.into_iter().min().map(|time| time.as_secs_f64()).context("no runs to take the best of")
}

/// A folder with a tree to publish, a key, and room for sites.
struct Bench(TempDir);

impl Bench {
    fn make() -> Result<Self> {
        fs::create_dir_all(out()).context("making out/")?;
        // On the disk, where sites are: /tmp may be memory.
        let bench = Self(TempDir::with_prefix_in("bench-", out()).context("making a folder below out/")?);
        for number in 0..SMALL_FILES {
            let length = SMALL_BYTES / 2 + number * SMALL_BYTES / SMALL_FILES;
            bench.write(&format!("small/{}/{number}", number / 100), &noise(number as u64, length))?;
        }
        for number in 0..BIG_FILES {
            bench.write(&format!("big/{number}"), &noise((SMALL_FILES + number) as u64, BIG_BYTES))?;
        }
        let mut key = Command::new(artefact("bin/zstrap")?);
        key.args(["key", "new", "--name", "bench", "--no-password", "--out"]).arg(bench.path("keys"));
        time(&mut key)?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path("tree").join(name);
        let folder = path.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }

    fn sums(&self, script: &str) -> Result<Duration> {
        time(Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(self.path("tree")))
    }

    /// Publishes to a site that is new.
    fn publish(&self, site: &str, options: &[&str]) -> Result<Duration> {
        let site = self.path(&format!("site-{site}"));
        let mut publish = Command::new(artefact("bin/zstrap")?);
        publish.arg("publish").arg(self.path("tree")).args(["--bundle", "bench", "--arch", "amd64"]);
        publish.arg("--site").arg(&site).arg("--key").arg(self.path("keys/bench.key"));
        let taken = time(publish.args(options))?;
        if site.exists() {
            fs::remove_dir_all(&site).with_context(|| format!("removing {}", site.display()))?;
        }
        Ok(taken)
    }
}

/// Runs a program to its end.
fn time(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().with_context(|| format!("running {command:?}"))?;
    let ended = wait(&mut child);
    let taken = started.elapsed();
    if ended.is_err() {
        // Both fail only when it has ended after all.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended.with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(taken)
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience(LIMIT);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("waiting for its end")? {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
    bail!("still running after {LIMIT:?}")
}
