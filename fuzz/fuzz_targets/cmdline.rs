//! Kernel command lines. Every line is read; each parameter that quoting can carry writes back as itself, alone
//! and among the others; lookups find the last of a name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zstrap_formats::cmdline::{Cmdline, Parameter};

fuzz_target!(|data: &[u8]| {
    let line = Cmdline::parse(data);
    let carried: Vec<Parameter> = line.parameters().iter().filter(|p| p.to_text().is_ok()).cloned().collect();
    let texts: Vec<String> = carried.iter().filter_map(|p| p.to_text().ok()).collect();
    for (parameter, text) in carried.iter().zip(&texts) {
        assert_eq!(Cmdline::parse(text.as_bytes()).parameters(), std::slice::from_ref(parameter));
    }
    let again = Cmdline::parse(texts.join(" ").as_bytes());
    // A cut at the length limit may fall into the last parameters.
    if data.len() < 1024 {
        assert_eq!(again.parameters(), carried);
    }
    for parameter in line.parameters() {
        assert!(line.has(&parameter.name));
    }
    if let Some(last) = line.parameters().last() {
        assert_eq!(line.value(&last.name), last.value.as_deref());
    }
});
