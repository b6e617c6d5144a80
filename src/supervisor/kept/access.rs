//! Who may open the pipes that children are given: a child of another user
//! opens /dev/stdin, /dev/stdout and /dev/stderr by the permissions of the
//! pipe behind them.
//!
//! An unnamed pipe can be opened only by those who hold an end of it (or may
//! look into the descriptors of one who does, proc(5)), so what is permitted to
//! "others" is permitted to the children that it was given to, and to nobody
//! else. Each may open it as it was given to it, and not in the other
//! direction, with two exceptions: root may do all, and a process of the user that owns a
//! pipe may change these permissions.

/// Of a log pipe: its child writes.
pub const TO_LOG: u32 = 0o622;

const OWN: u32 = 0o600;
const OTHERS_READ: u32 = 0o044;
const OTHERS_WRITE: u32 = 0o022;

/// Owner and permissions of a queue, for a supervisor of the user `own`, a sink
/// of the user `sink`, and these users' sources.
pub fn to_queue(own: u32, sink: u32, sources: &[u32]) -> (u32, u32) {
    let strange = |&user: &u32| user != own && user != sink;
    let writes = if sources.iter().any(strange) { OTHERS_WRITE } else { 0 };
    if sink == own {
        return (own, OWN | writes);
    }
    if sources.iter().all(|&user| user == own) {
        return (own, OWN | OTHERS_READ);
    }
    // The sink reads as the owner, whose permissions others' don't add to.
    let both = if sources.contains(&sink) { OWN } else { 0o400 };
    (sink, both | writes)
}

/// The permissions of that queue where a supervisor without CAP_CHOWN has to
/// stay its owner: a source of another user may read it too then, and a sink of
/// another user write.
pub fn to_own_queue(own: u32, sink: u32, sources: &[u32]) -> u32 {
    let reads = if sink != own { OTHERS_READ } else { 0 };
    let writes = if sources.iter().any(|&user| user != own) { OTHERS_WRITE } else { 0 };
    OWN | reads | writes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 0;
    const A: u32 = 1001;
    const B: u32 = 1002;
    const C: u32 = 1003;

    /// Whether a process of that user may read, and write.
    fn may(user: u32, (owner, mode): (u32, u32)) -> (bool, bool) {
        let bits = if user == owner { mode >> 6 } else { mode & 7 };
        (user == ROOT || bits & 4 != 0, user == ROOT || bits & 2 != 0)
    }

    #[test]
    fn a_source_writes_and_a_sink_reads_and_neither_does_the_other() {
        for (sink, sources) in
            [(ROOT, vec![A]), (A, vec![ROOT]), (A, vec![B]), (A, vec![B, C]), (ROOT, vec![A, B]), (A, vec![ROOT, B])]
        {
            let access = to_queue(ROOT, sink, &sources);
            if sink != ROOT {
                assert_eq!(may(sink, access), (true, false), "{sink} of {sources:?}: {access:?}");
            }
            for &source in sources.iter().filter(|&&user| user != ROOT) {
                assert_eq!(may(source, access), (false, true), "{source} of {sources:?} to {sink}: {access:?}");
            }
        }
    }

    #[test]
    fn one_user_at_both_ends_does_both() {
        for sources in [vec![A], vec![A, B], vec![A, ROOT]] {
            let access = to_queue(ROOT, A, &sources);
            assert_eq!(may(A, access), (true, true), "{sources:?}");
            assert_eq!(may(B, access), (false, sources.contains(&B)), "{sources:?}");
        }
    }

    #[test]
    fn a_supervisor_that_can_give_nothing_away_lets_all_do_what_they_must() {
        for (sink, sources) in [(A, vec![B]), (A, vec![A]), (ROOT, vec![A]), (A, vec![ROOT]), (ROOT, vec![ROOT])] {
            let access = (ROOT, to_own_queue(ROOT, sink, &sources));
            assert!(may(sink, access).0, "{sink} of {sources:?}");
            assert!(sources.iter().all(|&source| may(source, access).1), "{sources:?} to {sink}");
            let anyone_else = may(C, access);
            assert_eq!(anyone_else, (sink != ROOT, sources.iter().any(|&s| s != ROOT)));
        }
    }

    #[test]
    fn where_all_are_the_supervisors_user_nobody_else_may() {
        assert_eq!(to_queue(A, A, &[A, A]), (A, 0o600));
        assert_eq!(to_queue(ROOT, ROOT, &[ROOT]), (ROOT, 0o600));
    }
}
