//! What a server answers: the init's own HTTP client against a server on loopback that sends these bytes, whatever it is
//! asked, and then closes. No more comes out than was asked for, a part begins where it was asked to, and it ends.
//!
//! The first byte says what is asked for, the rest is the answer. The client's proxy is that same server, so that
//! no redirect leads away from this machine.
#![no_main]
#![allow(missing_docs)]

#[allow(dead_code)]
#[path = "../../src/fail/code.rs"]
mod code;
#[allow(dead_code)]
#[path = "../../src/http.rs"]
mod http;
#[path = "../../src/sys/names.rs"]
mod names;
/// Where the client looks for what its errors are called.
mod fail {
    pub(crate) use super::code::Code;
}
/// Nobody feeds one here.
mod watchdog {
    pub(crate) fn expect_within(_: std::time::Duration) {}
}
/// Where the client looks for what it looks up names with.
mod sys {
    pub(crate) use super::names;
}

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use http::{From, HttpError, Patience, Server, Source};
use libfuzzer_sys::fuzz_target;
use zstrap_formats::identity::Identity;
use zstrap_formats::url::Url;

/// No answer is longer, so that nothing has to be waited for.
const MAX_ANSWER: usize = 64 * 1024;
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(1),
    stall: Duration::from_secs(1),
    small_file: 1,
};
/// Connections at once: the first request and as many redirects as are followed.
const THREADS: usize = 4;
const OFFSET: u64 = 1000;
const LIMIT: u64 = 4096;

static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static CLIENT: LazyLock<(Url, Identity)> = LazyLock::new(|| client(serve()));

/// The client's resolver runs in threads of its own, and what one frees as it ends looks leaked a moment before
/// (`sanitizer/lsan_interface.h`).
// SAFETY: the name is the sanitizer's own, for exactly this, and nothing else here has it.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> std::ffi::c_int {
    1
}

fuzz_target!(|data: &[u8]| {
    let Some((what, answer)) = data.split_first().filter(|(_, answer)| answer.len() <= MAX_ANSWER) else {
        return;
    };
    let (url, identity) = &*CLIENT;
    *ANSWER.lock().expect("no thread panics with it") = answer.to_vec();
    // A client of its own for each input: no connection is left from the one before.
    let server = Server::new(url, identity, PATIENCE).expect("a server by HTTP");
    match what % 4 {
        0 => whole(server.get("configs/demo/latest", LIMIT)),
        1 => whole(server.probe("configs/demo/latest", LIMIT)),
        2 => part(&server, From::default()),
        _ => part(&server, From { offset: OFFSET, etag: Some("\"tag\"".to_owned()) }),
    }
});

fn whole(answer: Result<Vec<u8>, HttpError>) {
    match answer {
        Ok(bytes) => assert!(bytes.len() as u64 <= LIMIT),
        Err(error) => assert!(!error.code().as_str().is_empty() && !error.to_string().is_empty()),
    }
}

fn part(server: &Server, from: From) {
    let Ok(body) = server.open("blobs/sha256/x", &from, LIMIT) else { return };
    assert!(body.offset == 0 || body.offset == from.offset);
    let read = std::io::copy(&mut body.reader.take(u64::MAX), &mut std::io::sink());
    // What is not compressed cannot be longer than what was sent.
    assert!(read.is_err() || read.is_ok_and(|read| read <= MAX_ANSWER as u64));
}

fn client(address: SocketAddr) -> (Url, Identity) {
    let server = format!("http://{address}");
    let json = serde_json::json!({
        "version": 1, "build_time": "2025-11-20T08:00:00Z", "servers": [server], "proxy": server,
        "keys": ["RWQr2AbJfw4Ar/zWeDUu20wYdfeX+0nJZraFgdnaiiUiiYNeVFkBGRGK"], "threshold": 1,
        "config": {"name": "demo"}, "farmer_id": "farm", "farming_pool_id": "pool"
    });
    let identity = Identity::parse(json.to_string().as_bytes()).expect("an identity");
    (server.parse().expect("an URL"), identity)
}

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let address = listener.local_addr().expect("it is bound");
    // Several: the client may ask again before it lets the first connection go.
    for _ in 0..THREADS {
        let listener = listener.try_clone().expect("a descriptor");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may go away at any time.
                let _ = answer(stream);
            }
        });
    }
    address
}

/// Lets a proxy's `CONNECT` pass, and gives the answer to the request behind it.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_nodelay(true)?;
    if read_request(&mut stream)?.starts_with(b"CONNECT ") {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        read_request(&mut stream)?;
    }
    let answer = ANSWER.lock().expect("no thread panics with it").clone();
    stream.write_all(&answer)?;
    stream.shutdown(Shutdown::Write)?;
    // Closed with bytes unread, the kernel would reset the connection, and the client lose what it has not read.
    while stream.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

/// The head of a request, or what there is of it.
fn read_request(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        match stream.read(&mut piece)? {
            0 => break,
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    Ok(head)
}
