//! The server's answers, judged by curl and, where curl is too polite, by raw bytes over a socket.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::path::Path;
use support::{LATEST, LIST, Server, pattern, small_site};

const MIB: usize = 1024 * 1024;
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

struct Site {
    folder: tempfile::TempDir,
    server: Server,
    blob: String,
}

impl Site {
    /// A site whose blob has 3 MiB and some.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = small_site(folder.path(), &[3 * MIB + 17]);
        let server = Server::start(folder.path());
        Site { server, blob: format!("/blobs/sha256/{}", names[0]), folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[test]
fn sends_a_blob_whole_with_its_hash_as_tag() {
    let site = Site::new();
    let reply = site.server.curl(&site.blob, &[]);
    assert_eq!(reply.status, 200);
    assert!(reply.body == pattern(3 * MIB + 17));
    assert_eq!(reply.header("etag"), Some(format!("\"{}\"", &site.blob[14..]).as_str()));
    assert_eq!(reply.header("cache-control"), Some(IMMUTABLE));
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("content-length"), Some("3145745"));
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
}

#[test]
fn marks_lists_immutable_and_latest_not() {
    let site = Site::new();
    let list = site.server.curl(LIST, &[]);
    assert_eq!((list.status, list.body.as_slice()), (200, b"#mtree\n".as_slice()));
    assert_eq!(list.header("cache-control"), Some(IMMUTABLE));
    assert_eq!(list.header("content-type"), Some("text/plain; charset=utf-8"));
    for path in [LATEST, "/configs.json", "/configs/demo/latest"] {
        assert_eq!(site.server.curl(path, &[]).header("cache-control"), Some("no-cache"), "{path}");
    }
    assert_eq!(site.server.curl("/configs.json", &[]).header("content-type"), Some("application/json"));
}

#[test]
fn head_has_the_length_and_no_body() {
    let site = Site::new();
    let reply = site.server.curl(&site.blob, &["--head"]);
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-length"), Some("3145745"));
    // On a kept connection, bytes after the head would be taken for the next response.
    let raw = site.server.raw(&[&format!("HEAD {} HTTP/1.1", site.blob)]);
    assert_eq!((raw.status, raw.body.len()), (200, 0));
    let missing = site.server.raw(&["HEAD /configs/none/latest HTTP/1.1"]);
    assert_eq!((missing.status, missing.body.len()), (404, 0));
}

#[test]
fn sends_single_ranges() {
    let site = Site::new();
    let all = pattern(3 * MIB + 17);
    let cases = [
        ("0-0", 0..1),
        ("100-199", 100..200),
        ("3145000-", 3_145_000..3_145_745),
        ("-10", 3_145_735..3_145_745),
        ("262143-262145", 262_143..262_146),
    ];
    for (range, expected) in cases {
        let reply = site.server.curl(&site.blob, &["--range", range]);
        assert_eq!(reply.status, 206, "{range}");
        assert!(reply.body == all[expected.clone()], "{range}");
        let said = format!("bytes {}-{}/3145745", expected.start, expected.end - 1);
        assert_eq!(reply.header("content-range"), Some(said.as_str()), "{range}");
        assert_eq!(reply.header("content-length"), Some(expected.len().to_string().as_str()));
    }
}

#[test]
fn sends_ranges_of_small_files() {
    let site = Site::new();
    let reply = site.server.curl(LIST, &["--range", "1-3"]);
    assert_eq!((reply.status, reply.body.as_slice()), (206, b"mtr".as_slice()));
    assert_eq!(reply.header("content-range"), Some("bytes 1-3/7"));
}

#[test]
fn answers_416_past_the_end_and_ignores_several_ranges() {
    let site = Site::new();
    let past = site.server.curl(&site.blob, &["--range", "3145745-"]);
    assert_eq!(past.status, 416);
    assert_eq!(past.header("content-range"), Some("bytes */3145745"));
    let several = site.server.curl(&site.blob, &["--range", "0-1,5-6"]);
    assert_eq!((several.status, several.body.len()), (200, 3 * MIB + 17));
}

#[test]
fn resumes_with_curl_continue_at() {
    let site = Site::new();
    let file = site.path().join("got");
    std::fs::write(&file, &pattern(3 * MIB + 17)[..1_000_000]).unwrap();
    let status = std::process::Command::new("curl")
        .args(["--noproxy", "*", "--silent", "--fail", "--max-time", "20", "--continue-at", "-", "--output"])
        .arg(&file)
        .arg(site.server.url(&site.blob))
        .status()
        .unwrap();
    assert!(status.success());
    assert!(std::fs::read(&file).unwrap() == pattern(3 * MIB + 17));
}

#[test]
fn answers_304_to_the_tag_that_curl_kept() {
    let site = Site::new();
    let kept = site.path().join("tag");
    let kept = kept.to_str().unwrap();
    for path in [&site.blob, LATEST, LIST] {
        assert_eq!(site.server.curl(path, &["--etag-save", kept]).status, 200);
        let again = site.server.curl(path, &["--etag-compare", kept]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert!(again.header("etag").is_some() && again.header("cache-control").is_some());
    }
}

#[test]
fn a_new_latest_has_a_new_tag() {
    let site = Site::new();
    let tag = site.server.get(LATEST).header("etag").unwrap().to_owned();
    std::fs::write(site.path().join("new"), "18\n").unwrap();
    std::fs::rename(site.path().join("new"), site.path().join(&LATEST[1..])).unwrap();
    let reply = site.server.curl(LATEST, &["--header", &format!("If-None-Match: {tag}")]);
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"18\n".as_slice()));
}

#[test]
fn if_range_of_an_older_file_gets_the_whole_new_one() {
    let site = Site::new();
    let tag = format!("If-Range: \"{}\"", &site.blob[14..]);
    let same = site.server.curl(&site.blob, &["--range", "5-9", "--header", &tag]);
    assert_eq!((same.status, same.body.len()), (206, 5));
    let other = site.server.curl(&site.blob, &["--range", "5-9", "--header", "If-Range: \"old\""]);
    assert_eq!((other.status, other.body.len()), (200, 3 * MIB + 17));
}

#[test]
fn sends_empty_files() {
    let site = Site::new();
    std::fs::write(site.path().join("configs.json"), "").unwrap();
    let reply = site.server.curl("/configs.json", &[]);
    assert_eq!((reply.status, reply.body.len(), reply.header("content-length")), (200, 0, Some("0")));
    assert_eq!(site.server.curl("/configs.json", &["--range", "0-0"]).status, 416);
}

#[test]
fn refuses_other_methods_and_names_those_allowed() {
    let site = Site::new();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let reply = site.server.curl(LATEST, &["--request", method]);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn refuses_what_is_outside_the_known_folders() {
    let site = Site::new();
    for path in [
        "/",
        "/configs",
        "/configs/",
        "/configs/demo/",
        "/blobs/sha256",
        "/keys/admin.key",
        "/.tmp/half",
        "/images/.hidden",
    ] {
        let reply = site.server.curl(path, &[]);
        assert_eq!((reply.status, reply.body.as_slice()), (404, b"not found\n".as_slice()), "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
    }
}

#[test]
fn refuses_traversal_in_every_spelling() {
    let site = Site::new();
    for path in [
        "/blobs/../keys/admin.key",
        "/blobs/../../../../../../etc/passwd",
        "/blobs/%2e%2e/keys/admin.key",
        "/blobs/%2E%2E/%2e./etc/passwd",
        "/blobs/..%2fkeys%2fadmin.key",
        "/blobs/%252e%252e/keys/admin.key",
        "/blobs/%25%32%65%25%32%65/keys/admin.key",
        "/blobs/..%5ckeys%5cadmin.key",
        "/blobs/..\\keys\\admin.key",
        "/blobs/..%00/keys/admin.key",
        "/configs.json%00.txt",
        "/blobs/%c0%ae%c0%ae/keys/admin.key",
        "/blobs/./../keys/admin.key",
        "/blobs//../keys/admin.key",
        "//etc/passwd",
        "/blobs/%ef%bc%8e%ef%bc%8e/keys/admin.key",
    ] {
        let reply = site.server.get(path);
        assert!(matches!(reply.status, 400 | 404), "{path}: {reply:?}");
        let text = String::from_utf8_lossy(&reply.body);
        assert!(!text.contains("secret") && !text.contains("root:"), "{path}: {text}");
    }
}

#[test]
fn refuses_targets_that_are_no_plain_path() {
    let site = Site::new();
    for target in ["*", "configs.json", "../configs.json"] {
        let reply = site.server.get(target);
        assert!(matches!(reply.status, 400 | 404), "{target}: {reply:?}");
    }
    // Absolute form is what a client sends to a proxy; its path counts, its host does not.
    assert_eq!(site.server.get("http://elsewhere/configs.json").status, 200);
    assert_eq!(site.server.get("http://elsewhere/blobs/../keys/admin.key").status, 404);
}

#[test]
fn does_not_follow_links_out_of_the_site() {
    let site = Site::new();
    let images = site.path().join("images");
    std::os::unix::fs::symlink("/etc", images.join("etc")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../etc/passwd", images.join("up")).unwrap();
    for path in ["/images/etc/passwd", "/images/up"] {
        assert_eq!(site.server.get(path).status, 404, "{path}");
    }
}

#[test]
fn errors_name_no_path_of_this_machine() {
    let site = Site::new();
    let folder = site.path().to_str().unwrap().to_owned();
    std::fs::remove_dir_all(site.path().join("configs")).unwrap();
    std::os::unix::fs::symlink("loop", site.path().join("images/loop")).unwrap();
    for path in ["/configs/demo/latest", "/images/loop", &format!("/images/{}", "x".repeat(300))] {
        let reply = site.server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(!format!("{reply:?}").contains(&folder), "{reply:?}");
    }
}

#[test]
fn answers_several_requests_on_one_connection() {
    let site = Site::new();
    let mut stream = site.server.connect();
    let request = format!("GET {LIST} HTTP/1.1\r\nHost: t\r\nRange: bytes=1-5\r\n\r\n");
    let last = format!("GET {LATEST} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{request}{request}{last}").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 206 Partial Content").count(), 2);
    assert!(text.ends_with("\r\n\r\n17\n"), "{text}");
}

#[test]
fn a_file_cut_while_it_is_sent_ends_the_connection_early() {
    let site = Site::new();
    let mut stream = site.server.connect();
    // A small window keeps most of the file unread while it is being cut.
    let big = site.path().join("images/big.img");
    std::fs::File::create(&big).unwrap().set_len(64 * MIB as u64).unwrap();
    stream.write_all(b"GET /images/big.img HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut first = [0; 1024];
    stream.read_exact(&mut first).unwrap();
    std::fs::OpenOptions::new().write(true).open(&big).unwrap().set_len(1).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.len() + first.len() < 64 * MIB);
}

#[test]
fn two_hundred_parallel_ranges_give_identical_bytes() {
    let site = Site::new();
    let all = pattern(3 * MIB + 17);
    let server = &site.server;
    let blob = &site.blob;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..200usize)
            .map(|i| {
                let all = &all;
                scope.spawn(move || {
                    let start = (i * 15_013) % (3 * MIB);
                    let end = (start + 1 + i * 997).min(all.len() - 1);
                    let range = format!("Range: bytes={start}-{end}");
                    let reply = server.raw(&[&format!("GET {blob} HTTP/1.1"), &range]);
                    assert_eq!(reply.status, 206);
                    assert!(reply.body == all[start..=end], "range {start}-{end} differs");
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}
