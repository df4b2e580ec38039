//! The tables of kmod (modules.dep(5), depmod(8)) for a set of modules that stand in one folder.
//!
//! In: the modules by canonical name. Out: the texts of the three tables. Failure: none; the set is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Module;

type Modules = BTreeMap<String, Module>;

/// `modules.dep`: `a.ko: b.ko c.ko`, all that `a` needs, directly or not. As with depmod, what stands further
/// right is loaded first.
pub(super) fn dep(modules: &Modules) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        let mut order = Vec::new();
        needs_first(modules, name, &mut BTreeSet::new(), &mut order);
        // The module itself comes last.
        order.pop();
        let needs: String = order.iter().rev().map(|need| format!(" {}", modules[*need].file)).collect();
        writeln!(text, "{}:{needs}", module.file).expect("a String takes all");
    }
    text
}

/// Appends `name` to `order`, after all that it needs. A cycle, which no kernel can load, ends the descent.
fn needs_first<'a>(
    modules: &'a Modules,
    name: &'a str,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    if !seen.insert(name) {
        return;
    }
    for need in &modules[name].info.depends {
        needs_first(modules, need, seen, order);
    }
    order.push(name);
}

/// `modules.alias`: `alias PATTERN NAME`.
pub(super) fn alias(modules: &Modules) -> String {
    let mut text = String::from("# Aliases extracted from modules themselves.\n");
    for (name, module) in modules {
        for alias in &module.info.aliases {
            writeln!(text, "alias {alias} {name}").expect("a String takes all");
        }
    }
    text
}

/// `modules.softdep`: `softdep NAME pre: a b post: c`.
pub(super) fn softdep(modules: &Modules) -> String {
    let mut text = String::from("# Soft dependencies extracted from modules themselves.\n");
    for (name, module) in modules {
        for softdep in &module.info.softdeps {
            writeln!(text, "softdep {name} {softdep}").expect("a String takes all");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::modinfo::ModInfo;
    use super::*;

    fn module(name: &str, depends: &[&str]) -> (String, Module) {
        let info = ModInfo { depends: depends.iter().map(|&d| d.to_owned()).collect(), ..ModInfo::default() };
        (name.to_owned(), Module { file: format!("{name}.ko"), content: Vec::new(), info })
    }

    #[test]
    fn lists_all_needs_with_the_first_to_load_at_the_right() {
        let modules = BTreeMap::from([
            module("a", &["b", "c"]),
            module("b", &["d"]),
            module("c", &["b"]),
            module("d", &[]),
        ]);
        assert_eq!(dep(&modules), "a.ko: c.ko b.ko d.ko\nb.ko: d.ko\nc.ko: b.ko d.ko\nd.ko:\n");
    }

    #[test]
    fn survives_a_cycle() {
        let modules = BTreeMap::from([module("a", &["b"]), module("b", &["a"])]);
        assert_eq!(dep(&modules), "a.ko: b.ko\nb.ko: a.ko\n");
    }
}
