//! Who may open the pipes that children are given. When a child of another user opens
//! /dev/stdin, /dev/stdout or /dev/stderr, the permissions of the pipe behind it decide.
//!
//! Only a process that holds an end of an unnamed pipe can open it (or one that may look
//! into that process's descriptors, proc(5)). So a permission for "others" is one for the
//! children that were given the pipe, and for nobody else. Each child may open a pipe in the
//! direction in which it was given, and not in the other, with two exceptions: root may do
//! everything, and a process of the user that owns a pipe may change its permissions.

/// The permissions of a log pipe: its child writes.
pub const TO_LOG: u32 = 0o622;

const OWN: u32 = 0o600;
const OTHERS_READ: u32 = 0o044;
const OTHERS_WRITE: u32 = 0o022;

/// The owner and the permissions of a queue, if the supervisor runs as the user `own`, the
/// sink as `sink`, and the sources as these users.
pub fn to_queue(own: u32, sink: u32, sources: &[u32]) -> (u32, u32) {
    let strange = |&user: &u32| user != own && user != sink;
    let writes = if sources.iter().any(strange) { OTHERS_WRITE } else { 0 };
    if sink == own {
        return (own, OWN | writes);
    }
    if sources.iter().all(|&user| user == own) {
        return (own, OWN | OTHERS_READ);
    }
    // The sink reads as the owner; the permissions for others don't apply to it.
    let both = if sources.contains(&sink) { OWN } else { 0o400 };
    (sink, both | writes)
}

/// The permissions of that queue if the supervisor has to stay its owner, because it lacks
/// CAP_CHOWN. Then a source of another user may also read, and a sink of another user may
/// also write.
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

    /// Whether a process of that user may read, and whether it may write.
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
    fn a_supervisor_that_cannot_change_owners_lets_all_do_what_they_must() {
        for (sink, sources) in [(A, vec![B]), (A, vec![A]), (ROOT, vec![A]), (A, vec![ROOT]), (ROOT, vec![ROOT])] {
            let access = (ROOT, to_own_queue(ROOT, sink, &sources));
            assert!(may(sink, access).0, "{sink} of {sources:?}");
            assert!(sources.iter().all(|&source| may(source, access).1), "{sources:?} to {sink}");
            let anyone_else = may(C, access);
            assert_eq!(anyone_else, (sink != ROOT, sources.iter().any(|&s| s != ROOT)));
        }
    }

    #[test]
    fn if_all_run_as_the_supervisors_user_nobody_else_may_do_anything() {
        assert_eq!(to_queue(A, A, &[A, A]), (A, 0o600));
        assert_eq!(to_queue(ROOT, ROOT, &[ROOT]), (ROOT, 0o600));
    }
}
