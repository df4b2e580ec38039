//! Identities. What parses writes back as JSON that reads the same, fits its own rules and keeps its trust.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::identity::Identity;

fuzz_target!(|data: &[u8]| {
    let Ok(identity) = Identity::parse(data) else { return };
    let text = identity.to_json();
    let again = Identity::parse(text.as_bytes()).expect("its own JSON reads back");
    assert_eq!(again.to_json(), text);
    assert_eq!(again.keyring.keys(), identity.keyring.keys());
    assert_eq!(again.keyring.threshold(), identity.keyring.threshold());
    assert!((1..=identity.keyring.keys().len()).contains(&identity.keyring.threshold()));
    assert_eq!(again.servers, identity.servers);
    assert_eq!(again.config, identity.config);
    assert_eq!((again.network, again.clock), (identity.network, identity.clock));
    assert_eq!((again.farmer_id, again.farming_pool_id), (identity.farmer_id, identity.farming_pool_id));
});
