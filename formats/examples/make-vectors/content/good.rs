//! The vectors that every later version must read as they are read now.

use zstrap_formats::cpio::Archive;
use zstrap_formats::digest::sha256;
use zstrap_formats::identity::Identity;
use zstrap_formats::list::{Entry, List};
use zstrap_formats::packed::Packed;
use zstrap_formats::site;
use zstrap_formats::slot;

use super::{CONFIG_COMMENT, LIST_COMMENT, config, dir, file, key, link};

type Files = Vec<(String, Vec<u8>)>;

pub fn all() -> Files {
    let parts = [keys(), lists(), configs(), identities(), archives()];
    let mut files: Files = parts.into_iter().flatten().collect();
    files.push(("cmdline/demo.txt".to_owned(), CMDLINE.to_vec()));
    files.push(("cmdline/network.txt".to_owned(), CMDLINE_NETWORK.to_vec()));
    files.push(("site/latest".to_owned(), b"1795161600\n".to_vec()));
    let packed = Packed::new([(sha256(b"hello"), 4096), (sha256(b"hello world"), 70_000)]);
    files.push(("site/packed".to_owned(), packed.to_text().into_bytes()));
    files
}

const CMDLINE: &[u8] = b"BOOT_IMAGE=/kernel console=ttyS0,115200 quiet zstrap.log=debug zstrap.bundle=demo \
    zstrap.farmer_id=farm-7 zstrap.farming-pool-id=pool-1 zstrap.tries=3 zstrap.reboot_after=0 \
    note=\"two words\" \"whole word=in quotes\" -- zstrap.log=quiet\n";

/// What a boot loader and an operator say about the network.
const CMDLINE_NETWORK: &[u8] = b"console=ttyS0,115200 BOOTIF=01-52-54-00-12-34-56 zstrap.link=eth1 \
    zstrap.net=addr=192.0.2.7/24,gw=192.0.2.1,dns=192.0.2.53\n";

fn keys() -> Files {
    let mut files = Files::new();
    for name in ["alice", "bob"] {
        files.push((format!("keys/{name}.key"), key(name).to_file().into_bytes()));
        files.push((format!("keys/{name}.pub"), key(name).public().to_file().into_bytes()));
    }
    files
}

/// A small bundle as `publish` writes it.
fn demo() -> Vec<Entry> {
    vec![
        dir(b"", 0o755),
        dir(b"etc", 0o755),
        file(b"etc/empty", 0o644, b""),
        file(b"etc/motd", 0o644, b"hello\n"),
        dir(b"sbin", 0o755),
        link(b"sbin/init", b"zinit"),
        file(b"sbin/zinit", 0o755, b"not really zinit\n"),
        dir(b"tmp", 0o1777),
    ]
}

/// Names that break careless readers and writers.
fn odd_names() -> Vec<Entry> {
    let names: [&[u8]; 12] = [
        b"#hash",
        b"-dash",
        b"..dots",
        b"a b",
        b"a=b",
        b"back\\slash",
        b"glob*?[x]",
        "gr\u{fc}n".as_bytes(),
        b"line\nbreak",
        b"\\040",
        b"raw\xff\x01",
        b"~tilde",
    ];
    let mut entries: Vec<Entry> = names.iter().map(|name| file(name, 0o644, name)).collect();
    entries.extend([dir(b"d", 0o700), file(b"d/x", 0o600, b"x"), file(b"d-x", 0o644, b"")]);
    entries.push(link(b"link", b"/abs tgt#=\\\xff"));
    entries.push(Entry { uid: 1000, gid: 4_294_967_294, ..file(b"owned", 0o4711, b"") });
    entries
}

fn lists() -> Files {
    let text = |entries| List::new(entries).expect("the entries keep the rules").to_text().into_bytes();
    let demo = text(demo());
    let mut files = vec![
        ("list/empty.mtree".to_owned(), b"#mtree\n".to_vec()),
        ("list/odd-names.mtree".to_owned(), text(odd_names())),
        // A node takes these words in any order, and ignores four of them.
        ("list/loose.mtree".to_owned(), b"#mtree\n./a  nlink=2 mode=755 time=1.0 gname=x uname=x type=dir uid=0\n./a/l gid=7 link=..\\057x type=link\n".to_vec()),
    ];
    let alone = key("alice").sign(&demo, LIST_COMMENT);
    files.push((site::signature("list/demo.mtree"), alone.to_file().into_bytes()));
    for name in ["alice", "bob"] {
        let signature = key(name).sign(&demo, LIST_COMMENT);
        let path = site::signature_by("list/demo.mtree", signature.key_id());
        files.push((path, signature.to_file().into_bytes()));
    }
    files.push(("list/demo.mtree".to_owned(), demo));
    files
}

fn configs() -> Files {
    let mut files: Files = config::good()
        .into_iter()
        .map(|(name, text)| (format!("config/{name}"), text.into_bytes()))
        .collect();
    let signature = key("alice").sign(config::MINIMAL.as_bytes(), CONFIG_COMMENT).to_file();
    files.push((site::signature("config/minimal.json"), signature.into_bytes()));
    files
}

fn identities() -> Files {
    let canonical = |text: String| {
        let identity = Identity::parse(text.as_bytes()).expect("the identity keeps the rules");
        identity.to_json().into_bytes()
    };
    let (minimal, full) = (canonical(config::identity()), canonical(config::full_identity()));
    let mut files = vec![
        ("slot/minimal.slot".to_owned(), slot::write(&minimal).expect("it fits")),
        ("slot/full.slot".to_owned(), slot::write(&full).expect("it fits")),
        ("identity/terse.json".to_owned(), config::identity().into_bytes()),
        ("identity/minimal.json".to_owned(), minimal),
        ("identity/full.json".to_owned(), full),
        ("identity/every-field.json".to_owned(), canonical(config::every_field_of_an_identity())),
    ];
    for (name, text) in config::identities_with_network() {
        files.push((format!("identity/{name}.json"), canonical(text)));
    }
    files
}

/// What stands in front of an initramfs, and a small one behind it.
fn archives() -> Files {
    let minimal = Identity::parse(config::identity().as_bytes()).expect("the identity keeps the rules");
    let slot = slot::write(minimal.to_json().as_bytes()).expect("it fits");
    let mut front = Archive::new();
    let offset =
        front.aligned_file(slot::SLOT_FILE, 0o400, &slot, slot::SLOT_ALIGN).expect("the name is good");
    assert_eq!(offset, slot::SLOT_ALIGN);
    let mut tree = Archive::new();
    tree.dir("dev", 0o755)
        .and_then(|()| tree.char_device("dev/console", 0o600, 5, 1))
        .and_then(|()| tree.char_device("dev/null", 0o666, 1, 3))
        .and_then(|()| tree.file("init", 0o755, b"not really an init\n"))
        .and_then(|()| tree.link("sbin", "usr/sbin"))
        .expect("the names are good");
    vec![
        ("cpio/front.cpio".to_owned(), front.finish(slot::SLOT_ALIGN)),
        ("cpio/tree.cpio".to_owned(), tree.finish(512)),
    ]
}
