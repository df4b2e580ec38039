//! Hardware clocks that are wrong, and networks that know better.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zstrap_formats::time::{DAY, Timestamp};
use zstrap_qemu_tests::boot::{BOUND, expect_payload, expect_refusal_by};
use zstrap_qemu_tests::dhcp::{NTP, Script};
use zstrap_qemu_tests::http::Place;
use zstrap_qemu_tests::lab::{Lab, ROUTER};
use zstrap_qemu_tests::ntp::TimeServer;
use zstrap_qemu_tests::site::{SMALL, Scene, now};
use zstrap_qemu_tests::tls::{Authority, Key};
use zstrap_qemu_tests::vm::{Vm, VmBuilder};

/// Images of these tests were built so many days ago, well before certificates (30 days) and lists were made.
const BUILT: u64 = 200;

/// A machine room with a time server, and a site behind a certificate of 30 days on both sides of now.
struct Room {
    lab: Lab,
    scene: Scene,
    time: TimeServer,
}

/// A room over https, whose leases name the time server or do not.
fn room(name: &str, with_ntp: bool) -> Result<Room> {
    let (lab, authority) = (Lab::new()?, Authority::new(Key::Ec)?);
    let place = lab.place().tls(authority.server(&format!("IP:{ROUTER}"))?);
    let mut room = room_at(name, lab, place, with_ntp, 0)?;
    room.scene.identity["ca"] = json!(authority.pem()?);
    Ok(room)
}

/// A room without TLS, whose time server is off by so many seconds.
fn plain_room(name: &str, off_by: i64) -> Result<Room> {
    let lab = Lab::new()?;
    let place = lab.place();
    room_at(name, lab, place, true, off_by)
}

fn room_at(name: &str, lab: Lab, place: Place, with_ntp: bool, off_by: i64) -> Result<Room> {
    let time = TimeServer::start(&lab.namespace, ROUTER, off_by)?;
    let script = Script::new(2, 50);
    let script = if with_ntp { script.with(NTP, &[10, 77, 0, 1]) } else { script };
    script.play_on(&lab.segment);
    let mut scene = Scene::at(name, place)?;
    scene.identity["build_time"] = json!(days(-(BUILT as i64))?.to_string());
    Ok(Room { lab, scene, time })
}

/// So many days from now.
fn days(days: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_unix(now()?.unix().saturating_add_signed(days * DAY as i64))?)
}

impl Room {
    fn machine(&self, clock: &str) -> Result<VmBuilder> {
        Ok(self.lab.machine(&self.scene)?.clock(clock.parse()?))
    }

    /// Boots with this hardware clock; at the end the time is right, and was taken from `source`.
    fn boot(&self, clock: &str, source: &str) -> Result<Vm> {
        let vm = expect_payload(self.machine(clock)?, BOUND)?;
        vm.assert_line(&format!("] clock: hardware={}", &clock[..10]))?;
        vm.assert_line(&format!("] clock: hardware=*source={source} *taken=yes"))?;
        let told = vm.assert_line("payload: clock=")?.text;
        let told: u64 = told.rsplit('=').next().context("a line with =")?.parse()?;
        let off = told.abs_diff(now()?.unix());
        ensure!(off < 60, vm.failed(&format!("the clock is {off} s off")));
        vm.assert_never("] fail:")?;
        Ok(vm)
    }

    /// Has the list have expired yesterday.
    fn expire_the_list(&self) -> Result<()> {
        let (created, expires) = (days(-40)?, days(-1)?);
        let list = self.scene.list(SMALL)?;
        self.scene.resign(&list, |comment| (comment.created, comment.expires) = (created, expires))
    }

    fn refuses_the_list(&self, clock: &str) -> Result<Vm> {
        expect_refusal_by(self.machine(clock)?, "list", "expired", BOUND)
    }
}

#[test]
fn boots_over_https_in_1970_with_ntp() -> Result<()> {
    let room = room("clocks-1970", true)?;
    let vm = room.boot("1970-01-02T00:00:00Z", "ntp")?;
    ensure!(room.time.asked() > 0, vm.failed("nobody asked for the time"));
    vm.assert_line("] clock: raised from=1970-01-02T*why=before-image-was-built").map(drop)
}

#[test]
fn boots_over_https_in_1970_without_ntp() -> Result<()> {
    room("clocks-1970-https", false)?.boot("1970-01-02T00:00:00Z", "https").map(drop)
}

#[test]
fn boots_over_https_in_2100_with_ntp() -> Result<()> {
    let vm = room("clocks-2100", true)?.boot("2100-01-02T00:00:00Z", "ntp")?;
    vm.assert_line("] clock: lowered from=2100-01-02T*why=after-window").map(drop)
}

#[test]
fn boots_over_https_in_2100_without_ntp() -> Result<()> {
    room("clocks-2100-https", false)?.boot("2100-01-02T00:00:00Z", "https").map(drop)
}

/// The hardware clock could be right: only a valid chain says that it is not.
#[test]
fn boots_over_https_three_years_ahead() -> Result<()> {
    let vm = room("clocks-ahead", true)?.boot(&days(3 * 365)?.to_string(), "https")?;
    vm.assert_line("] clock: *source=ntp *taken=no why=hardware-in-window").map(drop)
}

#[test]
fn boots_over_https_three_months_behind() -> Result<()> {
    room("clocks-behind", true)?.boot(&days(-90)?.to_string(), "https").map(drop)
}

/// A clock behind would let an expired list pass, were it not for the certificate.
#[test]
fn refuses_an_expired_list_although_the_clock_is_behind() -> Result<()> {
    let room = room("clocks-behind-expired", true)?;
    room.expire_the_list()?;
    room.refuses_the_list(&days(-90)?.to_string()).map(drop)
}

#[test]
fn refuses_an_expired_list_in_1970() -> Result<()> {
    let room = room("clocks-1970-expired", true)?;
    room.expire_the_list()?;
    room.refuses_the_list("1970-01-02T00:00:00Z").map(drop)
}

/// Plain network time does not turn a believable clock back to when a list was still good.
#[test]
fn refuses_an_expired_list_whatever_ntp_says() -> Result<()> {
    let room = plain_room("clocks-lying-ntp", -60 * DAY as i64)?;
    room.expire_the_list()?;
    let vm = room.refuses_the_list(&now()?.to_string())?;
    vm.assert_line("] clock: *source=ntp *taken=no why=hardware-in-window")?;
    Ok(())
}

#[test]
fn believes_the_network_where_the_identity_says_so() -> Result<()> {
    let mut room = plain_room("clocks-setting", 0)?;
    room.scene.identity["clock"] = json!("network");
    let vm = room.boot(&days(3 * 365)?.to_string(), "ntp")?;
    vm.assert_line("] clock: *source=ntp *taken=yes why=setting").map(drop)
}

/// Nobody asks the network for the time when the hardware clock is good for all that has to be judged.
#[test]
fn asks_nobody_for_the_time_when_nothing_is_refused() -> Result<()> {
    let room = room("clocks-right", true)?;
    let vm = expect_payload(room.machine(&now()?.to_string())?, BOUND)?;
    ensure!(room.time.asked() == 0, vm.failed("the time server was asked"));
    vm.assert_never("] clock: hardware=")
}
