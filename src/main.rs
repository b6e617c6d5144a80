//! plumbd: arguments, command, one printed error, exit status.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match plumbd::cli::main(std::env::args_os()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            // If standard error is closed, the status still reports the failure.
            let _unheard = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.status())
        }
    }
}
