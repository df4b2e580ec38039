//! Writes the committed test vectors that need no other tool into `formats/vectors/`.
//!
//! In: nothing but [`content`]. Out: files that are missing; files that are there are compared. Failure: a file
//! that differs is named and left alone, because old vectors stay for ever: a changed format gets new ones.
//!
//! Run it with `cargo run -p zstrap-formats --example make-vectors`.

mod content;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut failed = false;
    for (name, bytes) in content::all() {
        match write_or_compare(&root.join(&name), &bytes) {
            Ok(Outcome::Same) => {}
            Ok(Outcome::Written) => eprintln!("wrote {name}"),
            Ok(Outcome::Differs) => {
                eprintln!("{name} differs from what is generated now; it stays as it is");
                failed = true;
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

enum Outcome {
    Same,
    Written,
    Differs,
}

fn write_or_compare(path: &Path, bytes: &[u8]) -> std::io::Result<Outcome> {
    match std::fs::read(path) {
        Ok(found) if found == bytes => Ok(Outcome::Same),
        Ok(_) => Ok(Outcome::Differs),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            std::fs::write(path, bytes)?;
            Ok(Outcome::Written)
        }
        Err(error) => Err(error),
    }
}
