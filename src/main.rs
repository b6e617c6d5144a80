//! plumbd: arguments, command, one printed error, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let second = arguments.last();
    let outcome = if first.as_deref() == Some("plugin") {
        let plugin = second.as_deref().and_then(plumbd::plugin::find);
        plugin
            .ok_or_else(|| "no such plugin".to_owned())
            .and_then(|plugin| plumbd::plugin::start::Start::from_environment().and_then(plugin.run))
    } else {
        plumbd::config::load(second.as_deref().map(std::path::Path::new)).map_err(|e| e.to_string()).and_then(
            |loaded| {
                plumbd::journal::start(plumbd::journal::Target::Stderr, log::LevelFilter::Debug)?;
                plumbd::supervisor::run(plumbd::supervisor::Options { loaded, outcome: None })
            },
        )
    };
    if let Err(why) = outcome {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
