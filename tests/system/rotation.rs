//! The message file is rotated and compressed inside the unit's sandbox.

use crate::load::rotated;
use crate::machine::Machine;
use crate::service::MESSAGES;
use crate::wait::wait_for;
use std::os::unix::fs::MetadataExt;

#[test]
#[ignore = "needs root, systemd-nspawn, debootstrap and cargo-deb"]
fn a_file_is_rotated_and_compressed_in_the_sandbox_with_clients_under_way() {
    let machine = Machine::with_package();
    machine.edit("#rotate ", "rotate = { size = \"64KiB\", compress = \"zstd\" } #");
    machine.done(&["systemctl", "start", "plumbd"]);
    let load = machine.load();
    let live = machine.path(MESSAGES);
    let compressed = wait_for("a rotated file is compressed", || {
        let mut archives = rotated::archives(&live).ok()?.into_iter();
        archives.find(|path| path.extension().is_some_and(|ending| ending == "zst"))
    });
    machine.wait_progress();
    let outcome = load.end();
    machine.assert_kept(&[outcome]);
    let (archive, live) = (compressed.metadata().unwrap(), live.metadata().unwrap());
    assert_eq!((archive.uid(), archive.gid(), archive.mode()), (live.uid(), live.gid(), live.mode()));
    let warnings = machine.sh("journalctl -u plumbd -p warning -o cat --no-pager");
    assert!(!warnings.contains("archiv") && !warnings.contains("cannot"), "{warnings}");
}
