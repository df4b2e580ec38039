//! Configs. Strict reading takes no more than nodes do and means the same; the order and the spelling of the JSON
//! mean nothing; a field of a later version changes nothing but the names of unknown fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use zstrap_formats::config::Config;

fuzz_target!(|data: &[u8]| {
    let node = Config::parse_node(data);
    match Config::parse_strict(data) {
        Ok(strict) => {
            assert!(strict.unknown_fields.is_empty());
            assert_eq!(node.as_ref(), Ok(&strict));
        }
        Err(_) => assert!(node.as_ref().map_or(true, |config| !config.unknown_fields.is_empty())),
    }
    let Ok(config) = node else { return };
    check_rules(&config);
    let mut value: Value = serde_json::from_slice(data).expect("a config is JSON");
    assert_eq!(Config::parse_node(value.to_string().as_bytes()).as_ref(), Ok(&config));
    value["\u{1f980}"] = Value::Null;
    let mut later = Config::parse_node(value.to_string().as_bytes()).expect("nodes ignore new fields");
    later.unknown_fields.retain(|name| name != "\u{1f980}");
    assert_eq!(
        later.unknown_fields.len(),
        config.unknown_fields.iter().filter(|n| *n != "\u{1f980}").count()
    );
    later.unknown_fields.clone_from(&config.unknown_fields);
    assert_eq!(later, config);
});

/// What the init relies on without looking again.
fn check_rules(config: &Config) {
    assert!(config.exec[0].starts_with('/') && config.exec.iter().all(|word| !word.contains('\0')));
    assert!(config.env.iter().all(|(name, value)| !name.contains('=') && !value.contains('\0')));
    assert!(config.debug.as_ref().is_none_or(|debug| !debug.allow.is_empty()));
    assert!((1..=86_400).contains(&config.grace));
    assert!(config.root.headroom.bytes(u64::MAX) >= config.root.headroom.bytes(0));
}
