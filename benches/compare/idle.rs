//! plumbd after a load, while nothing happens: its memory, and that it sleeps.

use crate::rig::{self, Rig};
use crate::table::{Table, yes};
use crate::{Options, echo, proc};
use std::thread::sleep;
use std::time::Duration;

/// Resident memory that the supervisor shall stay under, in KiB.
const WANTED_RESIDENT: u64 = 4096;
/// After a load, before idleness begins: what is due in a moment is done.
const SETTLE: Duration = Duration::from_secs(1);

/// Memory after a load, and context switches while nothing happens.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let address = rig::free_address()?;
    let mut rig = Rig::start(rig::folder()?, &echo::configuration(options, address, "saved"))?;
    rig.wait_for_address(address)?;
    let (warm_up, measured) = echo::load(options, address).map_err(|why| rig.complaint(&why))?;
    sleep(SETTLE);

    let processes = rig.processes();
    let idle = Duration::from_secs(if options.quick { 1 } else { 5 });
    let before: Vec<_> = processes.iter().map(|(pid, _)| proc::switches(*pid)).collect();
    sleep(idle);
    let mut table = Table::new(&["process", "VmRSS", "RssAnon", "Pss", "switches when idle", "wanted"]);
    for ((pid, name), before) in processes.iter().zip(before) {
        let switches = proc::switches(*pid).zip(before).map(|(after, before)| after - before);
        let resident = proc::status(*pid, "VmRSS:").unwrap_or_default();
        let mut wanted = format!("0 switches: {}", yes(switches == Some(0)));
        if *pid == rig.pid() {
            let kib: Option<u64> = resident.split(' ').next().and_then(|n| n.parse().ok());
            wanted = format!("under 4 MiB: {}, {wanted}", yes(kib.is_some_and(|kib| kib < WANTED_RESIDENT)));
        }
        let switches = switches.map_or_else(String::new, |n| n.to_string());
        let own = proc::status(*pid, "RssAnon:").unwrap_or_default();
        let share = proc::proportional_size(*pid).unwrap_or_default();
        table.row([name.clone(), resident, own, share, switches, wanted]);
    }
    table.print(&format!("after a load at echo_after = saved, then {} s without any", idle.as_secs()));

    rig.stop()?;
    let sent = [warm_up.connections, measured.connections].concat();
    rig.check(&rig.path("messages"), options.format, &sent)?;
    Ok(())
}
