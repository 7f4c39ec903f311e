//! Tests of the harness itself: a server, a standby, a device, a kill.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Device, Options};

#[test]
fn a_device_pulls_from_primary_and_standby() {
    let primary = Cluster::with_log(Options::default().durable());
    let standby = primary.standby("standby1");
    primary.wait_for_commits_of(&[&standby]);
    let mut app = primary.app(DATABASE);
    let write = "SELECT mana_sync.record_change('app', 'notes', 'n1', 'ann', NULL, 'insert', 'phone', '{}')";
    app.batch_execute(write).unwrap();

    let mut device = Device::new("ann", "app", &["home"]);
    assert_eq!(device.pull(&mut app, 10).unwrap(), 1);
    primary.wait_until_caught_up(&standby);
    standby.pause_replay();
    app.batch_execute("SET synchronous_commit = local").unwrap();
    app.batch_execute(write).unwrap();
    assert_eq!(device.pull(&mut standby.app(DATABASE), 10).unwrap(), 0);
    standby.resume_replay();
    primary.wait_until_caught_up(&standby);
    assert_eq!(device.pull(&mut standby.app(DATABASE), 10).unwrap(), 1);

    primary.kill_and_restart();
    device.compare(&mut primary.superuser(DATABASE)).assert_exact("after a crash");
    primary.kill();
    standby.promote();
    device.compare(&mut standby.superuser(DATABASE)).assert_exact("after a promotion");
    standby.app(DATABASE).batch_execute(write).unwrap();
    device.pull(&mut standby.app(DATABASE), 10).unwrap();
    device.compare(&mut standby.superuser(DATABASE)).assert_complete("on the new primary");
}
