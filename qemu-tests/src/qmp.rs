//! The control socket of QEMU: commands, their answers, and events (QEMU Machine Protocol).
//!
//! In: the path of a listening Unix socket. Out: answers and the list of events so far. Failure: an error that
//! names the command; no answer within ten seconds is one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::artefacts::patience;

/// QEMU answers control commands at once, whatever the guest does.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection that speaks QMP.
pub struct Qmp {
    stream: UnixStream,
    inbox: Arc<Inbox>,
    reader: Option<JoinHandle<()>>,
    last: u64,
}

/// What the reading thread has seen.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    answers: Vec<Value>,
    events: Vec<Value>,
    closed: bool,
}

impl Qmp {
    /// Connects to a QEMU that may still be starting, and leaves the negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = dial(socket).with_context(|| format!("connecting to QMP at {}", socket.display()))?;
        let inbox = Arc::new(Inbox::default());
        let source = stream.try_clone().context("cloning the QMP socket")?;
        let shared = Arc::clone(&inbox);
        let reader = std::thread::spawn(move || read_messages(source, &shared));
        let mut qmp = Self { stream, inbox, reader: Some(reader), last: 0 };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returned.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        let message = json!({ "execute": command, "arguments": arguments, "id": id });
        self.stream
            .write_all(format!("{message}\n").as_bytes())
            .with_context(|| format!("sending QMP {command}"))?;
        let answer = self.inbox.answer(id).with_context(|| format!("QMP {command}"))?;
        match answer.get("error") {
            None => Ok(answer.get("return").cloned().unwrap_or(Value::Null)),
            Some(error) => bail!("QMP {command} refused: {error}"),
        }
    }

    /// The `data` of every event of that name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let state = self.inbox.lock();
        let named = state.events.iter().filter(|event| event["event"] == name);
        named.map(|event| event["data"].clone()).collect()
    }

    /// Waits until QEMU, which has ended, has nothing more to tell. Only then the list of events is complete.
    pub fn drain(&mut self) {
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has told all it could; the events are what matters here.
            let _ = reader.join();
        }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u64) -> Result<Value> {
        let deadline = Instant::now() + patience(ANSWER);
        let mut state = self.lock();
        loop {
            if let Some(place) = state.answers.iter().position(|answer| answer["id"] == id) {
                return Ok(state.answers.swap_remove(place));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                bail!("no answer: {}", if state.closed { "QEMU ended" } else { "deadline passed" });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// QEMU makes its socket some milliseconds after it was started.
fn dial(socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + patience(ANSWER);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn read_messages(source: UnixStream, inbox: &Inbox) {
    for line in BufReader::new(source).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let mut state = inbox.lock();
        if message.get("event").is_some() {
            state.events.push(message);
        } else if message.get("id").is_some() {
            state.answers.push(message);
        }
        inbox.changed.notify_all();
    }
    inbox.lock().closed = true;
    inbox.changed.notify_all();
}
