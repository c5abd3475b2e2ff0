use super::{
    inbox::{FULL, of_length},
    *,
};

#[test]
fn a_full_inbox_drops_what_comes_again_and_makes_others_wait() {
    let (_poll, core, inbox) = of_length(1).unwrap();
    core.event(Event::Tick);
    (0..3).for_each(|_| core.offer(Event::Tick));
    assert_eq!(inbox.dropped.load(Ordering::Relaxed), 3);
    // What must not be lost waits for room, and is there then.
    let waits = std::thread::spawn(move || core.event(Event::Stop));
    assert!(matches!(inbox.inputs.recv(), Ok(Input::Event(Event::Tick))));
    assert!(matches!(inbox.inputs.recv(), Ok(Input::Event(Event::Stop))));
    waits.join().unwrap();
}

#[test]
fn a_frame_waits_for_room_and_is_not_lost() {
    let (_poll, core, inbox) = of_length(1).unwrap();
    core.event(Event::Tick);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async move {
        let sent = tokio::spawn(async move { core.frame(NodeId(2), vec![7]).await });
        tokio::time::sleep(FULL * 3).await;
        assert!(!sent.is_finished(), "the queue is full, and other tasks run");
        assert!(matches!(inbox.inputs.try_recv(), Ok(Input::Event(Event::Tick))));
        sent.await.unwrap();
        let there = inbox.inputs.try_recv();
        assert!(matches!(there, Ok(Input::Event(Event::Frame { from: NodeId(2), .. }))));
    });
}

#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    let (_poll, core, inbox) = of_length(1).unwrap();
    core.event(Event::Tick);
    drop(inbox);
    core.event(Event::Stop);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(core.inspect(|_, now| now)), None);
}
