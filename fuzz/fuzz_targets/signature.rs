//! Signature files and trusted comments. What parses writes back the same; what verifies is, to the last bit, what
//! the trusted key signs: no second form of a good signature passes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use zstrap_formats::key::SecretKey;
use zstrap_formats::signature::{Accept, Keyring, Signature, TrustedComment};

/// What is signed; the seeds are signatures over it.
const LIST: &[u8] = include_bytes!("../../formats/vectors/v1/list/demo.mtree");

static KEYS: LazyLock<[SecretKey; 2]> = LazyLock::new(|| {
    [
        include_str!("../../formats/vectors/v1/keys/alice.key"),
        include_str!("../../formats/vectors/v1/keys/bob.key"),
    ]
    .map(|text| SecretKey::parse(text).expect("the vectors are keys"))
});

static RING: LazyLock<Keyring> = LazyLock::new(|| {
    let keys = KEYS.iter().map(SecretKey::public).collect();
    Keyring::new(keys, 1).expect("two keys satisfy a threshold of one")
});

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check_comment(text);
    }
    let Ok(signature) = Signature::parse(data) else { return };
    assert_eq!(Signature::parse(signature.to_file().as_bytes()).as_ref(), Ok(&signature));
    check_comment(signature.comment_unverified());
    let one = std::slice::from_ref(&signature);
    let Ok(comment) = RING.verify(LIST, one, Accept::PrehashedOnly) else { return };
    assert_eq!(comment, signature.comment_unverified());
    assert!(KEYS.iter().any(|key| key.sign(LIST, &comment) == signature), "a signature nobody made");
});

fn check_comment(text: &str) {
    if let Ok(comment) = text.parse::<TrustedComment>() {
        assert_eq!(comment.to_string(), text);
    }
}
