use super::*;

#[test]
fn a_batch_has_a_higher_number_than_the_last_or_after_the_highest_the_time() {
    let time = u64::try_from(now()).unwrap() * 1000;
    assert!(batch_id(0, 1) >= time && batch_id(u64::MAX, 1) >= time);
    assert_eq!((batch_id(0, 1007) % 1000, batch_id(0, 2000) % 1000), (7, 0));
    assert_eq!(batch_id(u64::MAX - 1, 1), u64::MAX);
    assert_eq!(batch_id(1 << 62, 1), (1 << 62) + 1);
}
