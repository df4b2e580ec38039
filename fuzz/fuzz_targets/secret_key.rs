//! Secret key files. What parses can sign, its public half verifies that, and its file reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::key::SecretKey;
use zstrap_formats::signature::{Accept, Keyring};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = SecretKey::parse(text)
    {
        check(&key);
    }
    // Checksum and halves keep mutations of a file out, so entropy comes in here, too.
    if let Some((seed, rest)) = data.split_first_chunk::<32>()
        && let Some((id, _)) = rest.split_first_chunk::<8>()
        && *seed != [0; 32]
    {
        check(&SecretKey::from_seed(*seed, *id));
    }
});

fn check(key: &SecretKey) {
    let again = SecretKey::parse(&key.to_file()).expect("its own file reads back");
    assert_eq!(again.public(), key.public());
    let ring = Keyring::new(vec![key.public()], 1).expect("one key satisfies one");
    let verified = ring.verify(b"data", &[again.sign(b"data", "comment")], Accept::PrehashedOnly);
    assert_eq!(verified.as_deref(), Ok("comment"));
}
