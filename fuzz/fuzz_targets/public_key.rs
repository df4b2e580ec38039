//! Public key files. What parses writes back as the same key in both forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::key::PublicKey;
use zstrap_formats::signature::Keyring;

fuzz_target!(|text: &str| {
    let Ok(key) = PublicKey::parse(text) else { return };
    assert_eq!(PublicKey::parse(&key.to_file()).as_ref(), Ok(&key));
    assert_eq!(PublicKey::parse(&key.to_base64()).as_ref(), Ok(&key));
    assert_eq!(key.id().to_string().len(), 16);
    assert!(Keyring::new(vec![key], 1).is_ok());
});
