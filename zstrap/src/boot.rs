//! `zstrap boot`: an image in QEMU, for people to try things.
//!
//! In: the folder that `zstrap image` made. Out: a machine with its serial console on this terminal and a
//! network card behind which the host is 10.0.2.2. Failure: no image, no QEMU; otherwise QEMU's exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use zstrap_mkimage::Image;

/// Arguments of `zstrap boot`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image's folder
    pub dir: PathBuf,
    /// The machine's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u32,
    /// Uses KVM: faster where it works; emulation works everywhere
    #[arg(long)]
    pub kvm: bool,
    /// More words for the kernel command line, such as zstrap.net=dhcp4
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub append: String,
}

/// Runs the command until the machine is switched off.
///
/// # Errors
/// See the head of this file.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let image = Image::read(&arguments.dir)?;
    let mut command = qemu(&image, arguments)?;
    eprintln!("zstrap: booting {}; to leave: Ctrl-A, then X", arguments.dir.display());
    let program = command.get_program().to_string_lossy().into_owned();
    let package = if image.arch == "arm64" { "qemu-system-arm" } else { "qemu-system-x86" };
    let status = command.status().with_context(|| format!("starting {program} (package {package})"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The command that boots `image`. KVM must be asked for: a /dev/kvm that is there may still start nothing, and
/// a machine that says nothing is the worst first impression. Under it, arm64 knows no processor but the host's;
/// of those that can be emulated a newer one, which signs pointers, is five times slower.
fn qemu(image: &Image, arguments: &Arguments) -> anyhow::Result<Command> {
    let (program, machine): (&str, &[&str]) = match image.arch.as_str() {
        "amd64" => ("qemu-system-x86_64", &["-machine", "q35"]),
        "arm64" if arguments.kvm => ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "host"]),
        "arm64" => ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "cortex-a57"]),
        other => bail!("image is for {other}, expected amd64 or arm64"),
    };
    let mut command = Command::new(program);
    command.args(machine);
    command.args(["-accel", if arguments.kvm { "kvm" } else { "tcg" }]);
    command.args(["-nodefaults", "-display", "none", "-serial", "mon:stdio"]);
    command.arg("-m").arg(arguments.memory.to_string());
    // Without the boot ROM of the card, which nobody needs here and which is in a package of its own.
    command.args(["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]);
    command.args(["-device", "virtio-rng-pci"]);
    command.arg("-kernel").arg(arguments.dir.join(&image.kernel));
    command.arg("-initrd").arg(arguments.dir.join(&image.initramfs));
    let cmdline = format!("{} {}", image.cmdline, arguments.append);
    command.arg("-append").arg(OsString::from(cmdline.trim_end()));
    Ok(command)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn arguments() -> Arguments {
        Arguments {
            dir: PathBuf::from("img"),
            memory: 512,
            kvm: false,
            append: "zstrap.log=debug".to_owned(),
        }
    }

    fn words(image: &Image) -> Vec<String> {
        words_of(&qemu(image, &arguments()).unwrap())
    }

    fn words_of(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn boots_kernel_and_initramfs_of_the_folder_with_the_command_line() {
        let words = words(&Image::netboot("amd64", "console=ttyS0", 4096));
        for pair in [
            ["-kernel", "img/kernel"],
            ["-initrd", "img/initramfs"],
            ["-append", "console=ttyS0 zstrap.log=debug"],
            ["-m", "512"],
            ["-accel", "tcg"],
        ] {
            assert!(words.windows(2).any(|two| two == pair), "{pair:?} is not in {words:?}");
        }
    }

    #[test]
    fn boots_arm64_with_an_emulated_processor_or_with_the_hosts() {
        let image = Image::netboot("arm64", "console=ttyAMA0", 4096);
        for (kvm, processor) in [(false, "cortex-a57"), (true, "host")] {
            let command = qemu(&image, &Arguments { kvm, ..arguments() }).unwrap();
            assert_eq!(command.get_program(), "qemu-system-aarch64");
            let words = words_of(&command);
            assert!(words.windows(2).any(|two| two == ["-cpu", processor]), "{words:?}");
        }
    }

    #[test]
    fn refuses_an_unknown_architecture() {
        let image = Image::netboot("riscv64", "", 4096);
        assert!(qemu(&image, &arguments()).unwrap_err().to_string().contains("riscv64"));
    }
}
