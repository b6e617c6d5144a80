//! Who has an address that the daemon could not bind, if the daemon may not see that process but
//! the user of this command may.

use crate::config::model::Address;
use crate::schema::address::host_port;
use crate::supervisor::holder;

/// The daemon's words, with the name of the process where they say that it may not be seen.
pub(super) fn named(text: &str) -> String {
    let Some((before, after)) = text.split_once(holder::UNSEEN) else { return text.to_owned() };
    let who = refused(before).and_then(|address| holder::of(&address));
    format!("{before}{}{}", who.as_deref().unwrap_or(holder::UNSEEN), named(after))
}

/// The address in `cannot listen on ADDRESS: cause`, the last one if there are several.
fn refused(text: &str) -> Option<Address> {
    let (_, rest) = text.rsplit_once("cannot listen on ")?;
    let address = rest.split(": ").next()?;
    match address.split_once("://") {
        Some(("tcp", at)) => host_port(at).ok().map(Address::Tcp),
        Some(("udp", at)) => host_port(at).ok().map(Address::Udp),
        _ => address.strip_prefix("unix:").map(|path| Address::Unix(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_is_named_for_each_address_whose_holder_this_user_may_see() {
        let [one, two] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let told = |listener: &TcpListener, who: &str| {
            let at = listener.local_addr().unwrap();
            format!("cannot listen on tcp://{at}: Address already in use by {who}; stop it, or take another port")
        };
        let text = format!("x.toml:1: {}; x.toml:1: {}", told(&one, holder::UNSEEN), told(&two, holder::UNSEEN));
        let shown = named(&text);
        assert!(!shown.contains(holder::UNSEEN), "{shown}");
        assert_eq!(shown.matches(&format!(" (process {}); stop it", std::process::id())).count(), 2, "{shown}");
        let gone = told(&one, holder::UNSEEN);
        drop(one);
        assert_eq!(named(&gone), gone);
        assert_eq!(named("is down"), "is down");
    }
}
