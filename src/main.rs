//! plumbd: arguments, command, one printed error, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("plugin") {
        let plugin = arguments.next().as_deref().and_then(plumbd::plugin::find);
        let outcome = plugin
            .ok_or_else(|| "no such plugin".to_owned())
            .and_then(|plugin| plumbd::plugin::start::Start::from_environment().and_then(plugin.run));
        if let Err(why) = outcome {
            eprintln!("<3>{why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
