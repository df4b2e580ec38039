//! Keeps what people read true: every failure of the init is explained, commands parse, targets and links exist.
//!
//! In: the documents for users, the init's sources as text, `Makefile`. Out: nothing. Failure: a test that names
//! the document and the word. (`formats/tests/docs.rs` does the same for the formats and the threat model.)

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use zstrap::cli::Cli;
use zstrap_formats::config::Config;

const ERRORS: &str = "docs/errors.md";
const OPERATING: &str = "docs/operating.md";
const INIT: &str = "docs/init.md";
const NETWORK: &str = "docs/network.md";
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";
const THREATS: &str = "docs/threat-model.md";
/// What the threat model must argue about, and no less.
const ATTACKS: [&str; 8] = [
    "A stolen disk",
    "Root on a running node",
    "A hostile LAN",
    "A hostile mirror",
    "Replay",
    "A leaked image",
    "One of two keys leaked",
    "Debug left on",
];
const DOCUMENTS: [&str; 14] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ERRORS,
    OPERATING,
    INIT,
    "docs/bundles.md",
    "docs/config.md",
    "docs/debug.md",
    "docs/disk.md",
    "docs/zinit.md",
    NETWORK,
    TROUBLESHOOTING,
];
/// Sources of the init that are a stage of their own.
const STAGES: [&str; 7] = ["identity", "network", "config", "list", "root", "fetch", "handoff"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The init's sources without their tests, by path below `src/`.
fn sources() -> BTreeMap<String, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![PathBuf::from("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let whole = text(path.to_str().unwrap());
            let code = whole.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            found.insert(path.strip_prefix("src").unwrap().to_str().unwrap().to_owned(), code);
        }
    }
    found
}

/// The codes that a source names, as `Code::NAME`.
fn codes(source: &str) -> BTreeSet<&str> {
    let names = source.split("Code::").skip(1);
    names.map(|rest| &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())]).collect()
}

/// Of the init's one table: what a code is called in the source, and in print.
fn table() -> BTreeMap<String, String> {
    let table = sources()["fail/code.rs"].clone();
    let rows = table.lines().filter_map(|line| line.trim().split_once(" \"ZS-"));
    rows.map(|(name, rest)| (name.to_owned(), format!("ZS-{}", rest.split('"').next().unwrap()))).collect()
}

/// The cells of every table row that begins with code.
fn rows(document: &str) -> Vec<Vec<String>> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backticks in a cell.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The stages that the page names for each code: between backticks in the line of the reason, behind the reason.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = text(ERRORS);
    let sections = page.split("\n### ZS-").skip(1).map(|section| section.split_once('\n').unwrap());
    let stages = |section: &str| {
        let reason = section.lines().find(|line| line.starts_with("- **Reason:**")).unwrap();
        code(reason.split(": ").next().unwrap()).skip(1).map(str::to_owned).collect()
    };
    sections.map(|(heading, section)| (format!("ZS-{heading}"), stages(section))).collect()
}

// That each code has a section and each section a code is tested where the codes are.
#[test]
fn codes_are_explained_for_the_stage_that_gives_them() {
    let (documented, table, sources) = (documented(), table(), sources());
    assert!(table.len() > 60, "the codes in src/ were not found: {table:?}");
    let mut seen = 0;
    for stage in STAGES {
        let own = |path: &str| path == format!("{stage}.rs") || path.starts_with(&format!("{stage}/"));
        let own: Vec<&String> = sources.iter().filter(|(path, _)| own(path)).map(|(_, code)| code).collect();
        assert!(!own.is_empty(), "the sources of {stage} were not found");
        for name in own.into_iter().flat_map(|source| codes(source)) {
            let code = &table[name];
            assert!(documented[code].contains(stage), "{ERRORS}: {code} is a failure of {stage}, too");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} codes were found in the stages");
    let known: BTreeSet<&str> = STAGES.into_iter().chain(["init", "supervise"]).collect();
    for (code, stages) in documented {
        let is_known = stages.iter().all(|stage| known.contains(stage.as_str()));
        assert!(!stages.is_empty() && is_known, "{ERRORS}: stages of {code}");
    }
}

#[test]
fn every_code_that_a_document_names_has_a_section() {
    let documented = documented();
    for document in DOCUMENTS {
        let text = text(document);
        for rest in text.split("ZS-").skip(1) {
            // `ZS-NET-04`, or `ZS-NET` for all of them.
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
            let code = format!("ZS-{}", &rest[..end]);
            let is_known =
                documented.keys().any(|known| *known == code || known.starts_with(&format!("{code}-")));
            assert!(end == 0 || is_known, "{document} names {code}");
        }
    }
}

#[test]
fn every_warning_that_is_explained_is_printed() {
    let all: String = sources().into_values().collect();
    for row in rows(&text(ERRORS)).into_iter().filter(|row| row.len() == 2) {
        for line in code(&row[0]).filter(|line| !line.starts_with("STAGE")) {
            let (stage, said) = line.split_once(": ").unwrap_or((line, ""));
            let said = said.split(['=', '…']).next().unwrap().split(" N ").next().unwrap().trim();
            assert!(all.contains(&format!("\"{stage}\"")) || stage.starts_with("fail"), "{ERRORS}: {line}");
            assert!(all.contains(said), "{ERRORS}: the init does not say {said:?}");
        }
    }
}

/// Of a line, the stage and what it says: from a block of a boot log, or between backticks.
fn log_line(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('[').map_or(text, |rest| rest.split_once("] ").map_or("", |(_, line)| line));
    let (stage, said) = text.split_once(": ")?;
    let is_stage = !stage.is_empty() && stage.bytes().all(|b| b.is_ascii_lowercase());
    (is_stage && said.contains('=')).then_some((stage, said))
}

#[test]
fn every_log_line_that_is_shown_has_words_that_the_init_says() {
    for (document, least) in [(NETWORK, 20), (TROUBLESHOOTING, 15)] {
        log_lines_are_said(document, least);
    }
}

fn log_lines_are_said(name: &str, least: usize) {
    let (all, document) = (sources().into_values().collect::<String>(), text(name));
    let (mut prose, mut lines) = (String::new(), Vec::new());
    for (i, part) in document.split("```").enumerate() {
        if i % 2 == 0 { prose.push_str(part) } else { lines.extend(part.lines().filter_map(log_line)) }
    }
    lines.extend(prose.lines().flat_map(code).filter_map(log_line));
    assert!(lines.len() > least, "only {} log lines were found in {name}", lines.len());
    for (stage, said) in lines {
        assert!(all.contains(&format!("\"{stage}\"")), "{name}: no stage {stage}");
        // Without the free text after a colon.
        let is_ours = |word: &&str| *word != "…" && !word.starts_with('/');
        for word in said.split(": ").next().unwrap().split_whitespace().filter(is_ours) {
            let name_of_value = word.split_inclusive('=').next().unwrap();
            assert!(
                all.contains(name_of_value) || name_of_value.bytes().all(|b| b.is_ascii_digit()),
                "{name}: {name_of_value} in {said}"
            );
        }
    }
}

#[test]
fn every_fact_is_explained_and_no_other() {
    let sources = sources();
    let listed = sources["node/facts.rs"].lines().filter_map(|line| line.trim().strip_prefix("(\""));
    let inserted = sources.values().flat_map(|source| source.split("facts.insert(\"").skip(1));
    let facts = listed.chain(inserted).filter_map(|rest| rest.split('"').next());
    let facts: BTreeSet<&str> = facts.chain(["env.NAME"]).collect();
    let operating = text(OPERATING);
    let table = operating.split("| fact | what |").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    let rows = rows(&table);
    let documented: BTreeSet<&str> = rows.iter().flat_map(|row| code(&row[0])).collect();
    assert_eq!(documented, facts);
}

#[test]
fn every_setting_that_is_named_is_read() {
    let all: String = sources().into_values().collect();
    for document in DOCUMENTS {
        for rest in text(document).split("zstrap.").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            if rest[end..].starts_with('=') {
                assert!(all.contains(&format!("\"zstrap.{name}\"")), "{document} names zstrap.{name}=");
            }
        }
    }
}

#[test]
fn every_dependency_of_the_init_has_its_cost() {
    let (manifest, init) = (text("Cargo.toml"), text(INIT));
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = dependencies.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let names: Vec<&str> = names.map(|line| line.split([' ', '.']).next().unwrap()).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(init.contains(&format!("`{name}`")), "{INIT} does not say what {name} costs");
    }
}

/// Every file of sources, by its path without `.rs`.
fn all_sources() -> BTreeMap<String, String> {
    let roots = ["src", "formats", "wire", "mkimage", "server", "zstrap", "qemu-tests"];
    let (mut found, mut folders) = (BTreeMap::new(), roots.map(PathBuf::from).to_vec());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if let Some(name) = path.to_str().and_then(|path| path.strip_suffix(".rs")) {
                found.insert(name.trim_end_matches("/mod").to_owned(), text(path.to_str().unwrap()));
            }
        }
    }
    found
}

/// Whether a source has a test of this name: the attribute stands above it, perhaps with others between.
fn has_test(source: &str, name: &str) -> bool {
    let Some((above, _)) = source.split_once(&format!("fn {name}(")) else { return false };
    let lines = above.lines().rev().map(str::trim).skip_while(|line| line.is_empty());
    let mut attributes = lines.take_while(|line| line.starts_with("#["));
    attributes.any(|line| line == "#[test]")
}

/// The tests that a text names, as `MODULE::TEST`.
fn named_tests(text: &str) -> Vec<(String, &str)> {
    let paths = code(text).filter_map(|path| path.rsplit_once("::"));
    paths.map(|(module, name)| (module.replace("::", "/"), name)).collect()
}

#[test]
fn every_attack_of_the_threat_model_points_to_tests_that_exist() {
    let (threats, sources) = (text(THREATS), all_sources());
    let sections: BTreeMap<&str, &str> =
        threats.split("\n### ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from(ATTACKS), "{THREATS}");
    for (attack, section) in sections {
        let section = section.split("\n## ").next().unwrap();
        let (argument, tests) =
            section.split_once("\nTests: ").unwrap_or_else(|| panic!("{attack}: no tests"));
        assert!(argument.contains("**What is left:**"), "{attack} says nothing of what is left");
        assert!(!named_tests(tests).is_empty(), "{attack}: no tests");
    }
    for (module, name) in named_tests(&threats) {
        let is_module = |path: &str| path == module || path.ends_with(&format!("/{module}"));
        let is_there = sources.iter().any(|(path, source)| is_module(path) && has_test(source, name));
        assert!(is_there, "{THREATS} names the test {module}::{name}, which does not exist");
    }
}

/// The lines of all blocks of shell commands, continued lines joined.
fn shell_lines(document: &str) -> Vec<String> {
    let blocks = document.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let joined: Vec<String> = blocks.map(|block| block.replace("\\\n", " ")).collect();
    joined.iter().flat_map(|block| block.lines().map(str::to_owned)).collect()
}

/// The words of a simple command: substitutions and what stands in quotation marks count as one word, redirections and
/// what follows as none.
fn words(line: &str) -> Vec<String> {
    let mut plain = String::new();
    for (i, part) in line.split("$(").enumerate() {
        let rest = if i == 0 { part } else { part.split_once(')').unwrap().1 };
        plain.push_str(if i == 0 { "" } else { "X" });
        plain.push_str(rest);
    }
    let quoted = |(i, part): (usize, &str)| if i % 2 == 1 { part.replace(' ', "_") } else { part.to_owned() };
    let plain: String = plain.split('\'').enumerate().map(quoted).collect();
    let is_command = |word: &&str| !word.contains(['>', '&', '|']);
    plain.split_whitespace().take_while(is_command).map(|word| word.trim_matches('"').to_owned()).collect()
}

#[test]
fn every_command_in_the_documents_parses() {
    let mut count = 0;
    for document in DOCUMENTS {
        for line in shell_lines(&text(document)).iter().filter(|line| line.starts_with("zstrap ")) {
            let parsed = Cli::command().try_get_matches_from(words(line));
            assert!(parsed.is_ok(), "{document}: {line}\n{}", parsed.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 15, "only {count} commands were found");
}

/// What people copy is taken, and does what stands beside it: a debug session needs an overlay network, and a zinit.
#[test]
fn every_config_in_the_documents_is_a_good_one() {
    let (mut count, mut sessions) = (0, 0);
    for document in DOCUMENTS {
        let text = text(document);
        let blocks = text.split("\n```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
        for json in blocks.filter(|block| block.contains("\"version\"")) {
            let config = Config::parse_strict(json.as_bytes());
            let config = config.unwrap_or_else(|error| panic!("{document}: {error}\n{json}"));
            if config.debug.is_some() {
                assert!(!config.mycelium.peers.is_empty(), "{document}: nobody could connect\n{json}");
                assert!(config.exec[0].starts_with("/sbin/zinit"), "{document}: nothing starts it\n{json}");
                sessions += 1;
            }
            count += 1;
        }
    }
    assert!(count > 10 && sessions >= 2, "{count} configs, {sessions} of them with debug");
}

#[test]
fn the_demo_in_the_readme_shows_what_the_programs_say() {
    let (readme, all) = (text("README.md"), sources().into_values().collect::<String>());
    let demo = readme.split("```text\n== ").nth(1).unwrap().split("\n```").next().unwrap();
    for stage in STAGES.into_iter().chain(["early", "clock", "supervise"]) {
        assert!(demo.contains(&format!("] {stage}: ")), "no line of {stage}");
    }
    for step in ["storing", "compressing", "compressed"] {
        assert!(demo.contains(&format!(" [INFO] {step}: ")), "no line of {step}");
    }
    let said: Vec<&str> =
        demo.lines().filter_map(|line| log_line(line.strip_prefix("  | ")?)).map(|(_, said)| said).collect();
    for name in said.iter().flat_map(|said| said.split_whitespace()).filter_map(|word| word.split_once('=')) {
        assert!(all.contains(&format!("{}=", name.0)), "the init does not say {}=", name.0);
    }
    let done = said.iter().find(|said| said.starts_with("done files=")).unwrap();
    assert!(done.contains(" received="), "{done}");
}

/// The README's commands go to a new folder, and those of the other pages come after them.
#[test]
fn commands_find_the_kernel_from_the_folder_of_the_readme() {
    assert!(text("README.md").contains("\nKERNEL=$PWD/out/kernel/amd64\ncd "));
    let lines = DOCUMENTS.map(|document| shell_lines(&text(document))).concat();
    let images: Vec<&String> =
        lines.iter().filter(|line| line.starts_with("zstrap image netboot ")).collect();
    assert!(images.len() > 3, "{images:?}");
    for line in images {
        assert!(line.contains(" --kernel $KERNEL/vmlinuz --modules $KERNEL/modules/* "), "{line}");
    }
}

#[test]
fn every_make_target_in_the_documents_exists() {
    let makefile = text("Makefile");
    for document in DOCUMENTS {
        let text = text(document);
        let shell = shell_lines(&text);
        let spans = text.split('`').skip(1).step_by(2).chain(shell.iter().map(String::as_str));
        for span in spans.filter_map(|span| span.strip_prefix("make ")) {
            let target = span.split(' ').next().unwrap();
            assert!(makefile.contains(&format!("\n{target}:")), "{document} names make {target}");
        }
    }
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    for document in DOCUMENTS {
        let folder = Path::new(document).parent().unwrap();
        for link in text(document).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { PathBuf::from(document) } else { folder.join(file) };
            assert!(root().join(&target).exists(), "{document} links to {link}");
            let is_there = heading.is_empty() || anchors(target.to_str().unwrap()).contains(heading);
            assert!(is_there, "{document} links to {link}");
        }
    }
}

/// What headings are called in links.
fn anchors(document: &str) -> BTreeSet<String> {
    let text = text(document);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    headings.map(|line| anchor(line).replace([',', '.', ':', '`', '(', ')', '\'', '…'], "")).collect()
}
