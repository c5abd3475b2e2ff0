use super::*;
use crate::run::NotStarted;

/// Walks a sequence with a limit of 10 s through answers, each with the time that it takes; what it
/// asks for.
fn walk(wanted: Power, reads_back: bool, answers: &[(u64, Answer)]) -> Vec<Step> {
    let mut sequence = Sequence::new(wanted, Millis(10_000), reads_back);
    let (mut at, mut event, mut answers) = (0, Event::Begin, answers.iter());
    let mut steps = Vec::new();
    loop {
        let step = sequence.next(Millis(at), event);
        steps.push(step.clone());
        event = match step {
            Step::End(_) => return steps,
            Step::Wait(length) => {
                at += length.0;
                Event::Rested
            }
            Step::Switch(limit) | Step::Status(limit) => {
                let (took, answer) = answers.next().expect("it asks no more than that");
                at += took;
                assert!(*took <= limit.0, "{steps:?}");
                Event::Answered(answer.clone())
            }
        };
    }
}

#[test]
fn every_way_through_the_calls() {
    every_way(Power::Off, Power::On);
    every_way(Power::On, Power::Off);
}

/// `on` and `off` as they are called where a node is to be off.
fn every_way(wanted: Power, other: Power) {
    let walk = |reads_back, answers: &[(u64, Answer)]| walk(wanted, reads_back, answers);
    let (done, on) = (Answer::Done, Answer::Power(other));
    let off = Answer::Power(wanted);
    let failure = Failure::Code { code: 1, said: "x".into() };
    let failed = Answer::Failed(failure.clone());
    let (ms, wait) = (|ms| Millis(ms), Step::Wait(PAUSE));
    let (first, end) = (Step::Switch(ms(7_000)), Step::End);
    for (reads_back, answers, steps) in [
        (
            true,
            vec![(300, done.clone()), (100, off.clone())],
            vec![first.clone(), Step::Status(ms(2_188)), end(End::Confirmed(Evidence::ReadBack))],
        ),
        (
            true,
            vec![(300, done.clone()), (100, on.clone()), (100, off.clone())],
            vec![
                first.clone(),
                Step::Status(ms(2_188)),
                wait.clone(),
                Step::Status(ms(2_188)),
                end(End::Confirmed(Evidence::ReadBack)),
            ],
        ),
        // The whole time for `off`: a status is left, and no pause.
        (
            true,
            vec![(7_000, done.clone()), (2_188, on.clone()), (273, failed.clone())],
            vec![
                first.clone(),
                Step::Status(ms(2_188)),
                wait.clone(),
                Step::Status(ms(273)),
                end(End::Contrary),
            ],
        ),
        (
            true,
            vec![(7_000, failed.clone()), (2_188, off.clone())],
            vec![
                first.clone(),
                Step::Status(ms(2_188)),
                end(End::Failed(failure.clone(), Some(wanted))),
            ],
        ),
        (
            true,
            vec![(1_000, failed.clone()), (5_500, failed.clone()), (1_000, failed.clone())],
            vec![
                first.clone(),
                wait.clone(),
                Step::Switch(ms(5_500)),
                Step::Status(ms(2_188)),
                end(End::Failed(failure.clone(), None)),
            ],
        ),
        (
            false,
            vec![(300, done.clone())],
            vec![Step::Switch(ms(9_500)), end(End::Confirmed(Evidence::Word))],
        ),
        (
            false,
            vec![(9_500, failed.clone())],
            vec![Step::Switch(ms(9_500)), end(End::Failed(failure.clone(), None))],
        ),
    ] {
        assert_eq!(walk(reads_back, &answers[..]), steps, "{answers:?}");
    }
    // The second `off` had less time: why the first one failed says more.
    let late = Answer::Failed(Failure::Deadline { has_begun: true, lingers: false });
    let steps = walk(true, &[(3_000, failed), (3_500, late), (100, on)]);
    assert_eq!(steps.last(), Some(&end(End::Failed(failure, Some(other)))), "{steps:?}");
    // A failure that only a person can end is not repeated.
    let missing = Failure::NotStarted(NotStarted::Missing);
    let steps = walk(true, &[(1, Answer::Failed(missing.clone()))]);
    assert_eq!(steps[1], end(End::Failed(missing, None)));
}

#[test]
fn nothing_is_asked_past_the_deadline() {
    for deadline in [0, 1, 49, 50, 200, 551, 1_000, 60_000] {
        for reads_back in [true, false] {
            let mut sequence = Sequence::new(Power::Off, Millis(deadline), reads_back);
            let (mut at, mut event) = (0, Event::Begin);
            // Everything takes all its time, and the device says that it is on.
            loop {
                event = match sequence.next(Millis(at), event) {
                    Step::Switch(limit) | Step::Status(limit) => {
                        at += limit.0 + grace(limit).0;
                        Event::Answered(Answer::Power(Power::On))
                    }
                    Step::Wait(length) => {
                        at += length.0;
                        Event::Rested
                    }
                    Step::End(_) => break,
                };
                assert!(at <= deadline, "{at} of {deadline}");
            }
        }
    }
}
