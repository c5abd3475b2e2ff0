//! What happens in a case: the forms of its lines that are no expectations.

use nines_core::wire::{Act, Give, Persisted, command::Kind, pack};
use nines_model::{Codes as _, Millis};
use nines_sim::{World, scenario::Disk, world::Device};

use super::{
    run::Run,
    words::{Names, gaps, number, time},
};

/// Something that is done to a run.
pub type Step = Box<dyn Fn(&mut Run) -> Result<(), String>>;

/// What a line means: steps, each so long after the time of the line.
type Steps = Vec<(Millis, Step)>;

fn at_once(act: impl Fn(&mut World) + 'static) -> Steps {
    vec![later(Millis(0), act)]
}

fn later(after: Millis, act: impl Fn(&mut World) + 'static) -> (Millis, Step) {
    let step: Step = Box::new(move |run| {
        act(&mut run.world);
        Ok(())
    });
    (after, step)
}

/// The steps of a line; an error says which word is not known.
pub fn read(text: &str, names: &Names) -> Result<Steps, String> {
    for read in [links, disks, machines, devices, clocks, people] {
        if let Some(steps) = read(text, names)? {
            return Ok(steps);
        }
    }
    Err("is not understood".into())
}

type Read = Result<Option<Steps>, String>;

/// Every pair of one of these and one of those.
fn pairs(a: Vec<u64>, b: &[u64]) -> Vec<(u64, u64)> {
    a.into_iter().flat_map(|a| b.iter().map(move |b| (a, *b))).filter(|(a, b)| a != b).collect()
}

fn links(text: &str, names: &Names) -> Read {
    let both = |pairs: Vec<(u64, u64)>| {
        at_once(move |world| pairs.iter().for_each(|(a, b)| world.cut(*a, *b, true)))
    };
    let one_way = |pairs: Vec<(u64, u64)>| {
        at_once(move |world| pairs.iter().for_each(|(a, b)| world.cut(*a, *b, false)))
    };
    let all = names.nodes("all nodes")?;
    if let Some([a, b, card, every, length]) =
        gaps(text, "flap {} from {} on card {} every {} for {}")
    {
        let pairs = pairs(names.nodes(a)?, &those(b, names)?);
        let card = Some(number(card)? as usize);
        return Ok(Some(flap(&pairs, card, time(every)?, time(length)?)));
    }
    Ok(Some(if let Some([a, b, every, length]) = gaps(text, "flap {} from {} every {} for {}") {
        let pairs = pairs(names.nodes(a)?, &those(b, names)?);
        flap(&pairs, None, time(every)?, time(length)?)
    } else if let Some([a]) = gaps(text, "cut {} from each other") {
        let some = names.nodes(a)?;
        both(pairs(some.clone(), &some))
    } else if let Some([a, b]) = gaps(text, "cut {} from {}") {
        both(pairs(names.nodes(a)?, &those(b, names)?))
    } else if let Some([a, b]) = gaps(text, "{} hears nothing from {}") {
        one_way(pairs(names.nodes(b)?, &names.nodes(a)?))
    } else if let Some([a]) = gaps(text, "{} hears nothing") {
        one_way(pairs(all, &names.nodes(a)?))
    } else if let Some([a]) = gaps(text, "{} is heard by nobody") {
        one_way(pairs(names.nodes(a)?, &all))
    } else if let Some([card, a]) = gaps(text, "card {} of {} fails") {
        let (card, some) = (number(card)? as usize, names.nodes(a)?);
        at_once(move |world| some.iter().for_each(|id| world.fail_card(*id, card)))
    } else if let Some([percent]) = gaps(text, "{} % of all messages are lost") {
        let permille = (number(percent)? * 10.0) as u64;
        at_once(move |world| world.loss_permille = permille)
    } else if text == "large frames are lost" {
        at_once(|world| {
            world.bulk_loss_permille = 1_000;
            world.small_only.extend(0..world.scenario.cards);
        })
    } else if let Some([card]) = gaps(text, "large datagrams are lost on card {}") {
        let card = number(card)? as usize;
        at_once(move |world| world.small_only.extend([card]))
    } else if text == "large frames arrive again" {
        at_once(|world| {
            world.bulk_loss_permille = 0;
            world.small_only.clear();
        })
    } else if text == "mend all links" {
        at_once(World::mend_all_links)
    } else {
        return Ok(None);
    }))
}

/// The other side of a cut: `all others` are all, and no machine is cut from itself.
fn those(text: &str, names: &Names) -> Result<Vec<u64>, String> {
    names.nodes(if text == "all others" { "all nodes" } else { text })
}

/// The links break, work again after this time, break again after this time, ...
fn flap(pairs: &[(u64, u64)], card: Option<usize>, every: Millis, length: Millis) -> Steps {
    // The last round mends.
    let rounds = 0..length.0 / every.0.max(1) / 2 * 2;
    let step = |round: u64| {
        let pairs = pairs.to_vec();
        later(Millis(round * every.0), move |world| {
            for (a, b) in &pairs {
                match card {
                    _ if round % 2 == 1 => {
                        world.mend(*a, *b);
                        world.mend(*b, *a);
                    }
                    Some(card) => {
                        world.cut_card(*a, *b, card);
                        world.cut_card(*b, *a, card);
                    }
                    None => world.cut(*a, *b, true),
                }
            }
        })
    };
    rounds.map(step).collect()
}

fn machines(text: &str, names: &Names) -> Read {
    let each = |some: Vec<u64>, act: fn(&mut World, u64)| {
        at_once(move |world| some.iter().for_each(|id| act(world, *id)))
    };
    Ok(Some(if let Some([a]) = gaps(text, "kill {}") {
        each(names.nodes(a)?, World::kill)
    } else if let Some([a]) = gaps(text, "power off {}") {
        each(names.nodes(a)?, World::power_off)
    } else if let Some([a]) = gaps(text, "upgrade {}") {
        each(names.nodes(a)?, World::upgrade)
    } else if let Some([a, b]) = gaps(text, "start a copy of {} that does not hear {}") {
        let (id, cut_off) = (names.node(a)?, names.nodes(b)?);
        at_once(move |world| world.copy(id, &cut_off))
    } else if let Some([a]) = gaps(text, "start a copy of {}") {
        let id = names.node(a)?;
        at_once(move |world| world.copy(id, &[]))
    } else if text == "stop the copy and restart the original" {
        at_once(World::remove_copy)
    } else if let Some([a]) = gaps(text, "stop {}") {
        each(names.nodes(a)?, World::stop)
    } else if let Some([a]) = gaps(text, "start {}") {
        each(names.nodes(a)?, World::start)
    } else if let Some([a]) = gaps(text, "the build of {} is from before feature levels") {
        if names.nodes(a)? != names.nodes("all nodes")? {
            return Err("all nodes begin with the same build".into());
        }
        at_once(|world| world.with_older_builds(0))
    } else if let Some([a, length]) = gaps(text, "freeze {} for {}") {
        let (some, length) = (names.nodes(a)?, time(length)?);
        at_once(move |world| some.iter().for_each(|id| world.pause(*id, length)))
    } else {
        return Ok(None);
    }))
}

fn disks(text: &str, names: &Names) -> Read {
    let full = |some: Vec<u64>, full: bool| {
        at_once(move |world| some.iter().for_each(|id| world.fill_disk(*id, full)))
    };
    let fails = |some: Vec<u64>, fails: bool| {
        at_once(move |world| some.iter().for_each(|id| world.fail_disk(*id, fails)))
    };
    let writes = |names: &Names, some: Vec<u64>, disk: Disk| {
        let some: Vec<String> = some.into_iter().map(|id| names.of_node(id)).collect();
        at_once(move |world| {
            for name in &some {
                world.scenario.disks.insert(name.clone(), disk);
            }
        })
    };
    Ok(Some(if let Some([a]) = gaps(text, "writes of {} take as long as before") {
        writes(names, names.nodes(a)?, Disk::default())
    } else if let Some([a, length]) = gaps(text, "writes of {} take {}") {
        let write_ns_min = time(length)?.ns();
        writes(names, names.nodes(a)?, Disk { write_ns_min, ..Disk::default() })
    } else if let Some([a]) = gaps(text, "the disk of {} is full") {
        full(names.nodes(a)?, true)
    } else if let Some([a]) = gaps(text, "the disk of {} has room again") {
        full(names.nodes(a)?, false)
    } else if let Some([a]) = gaps(text, "the disk of {} fails") {
        fails(names.nodes(a)?, true)
    } else if let Some([a]) = gaps(text, "the disk of {} works again") {
        fails(names.nodes(a)?, false)
    } else if let Some([a]) = gaps(text, "kill {} and empty its disk") {
        let id = names.node(a)?;
        at_once(move |world| world.put_back(id, Persisted::default()))
    } else if let Some([a]) = gaps(text, "copy the disk of {}") {
        let some = names.nodes(a)?;
        let step: Step = Box::new(move |run| {
            for id in &some {
                run.copies.insert(*id, run.world.copy_of_disk(*id));
            }
            Ok(())
        });
        vec![(Millis(0), step)]
    } else if let Some([a]) = gaps(text, "kill {} and put the copy on its disk") {
        let id = names.node(a)?;
        let step: Step = Box::new(move |run| {
            let copy = run.copies.get(&id).cloned().ok_or("its disk was not copied")?;
            run.world.put_back(id, copy);
            Ok(())
        });
        vec![(Millis(0), step)]
    } else {
        return Ok(None);
    }))
}

fn devices(text: &str, names: &Names) -> Read {
    Ok(Some(if let Some([a, device]) = gaps(text, "{} does not reach device {}") {
        let (some, device) = (names.nodes(a)?, device.to_owned());
        at_once(move |world| some.iter().for_each(|id| world.cut_device(*id, &device, true)))
    } else if let Some([a, device]) = gaps(text, "{} reaches device {} again") {
        let (some, device) = (names.nodes(a)?, device.to_owned());
        at_once(move |world| some.iter().for_each(|id| world.cut_device(*id, &device, false)))
    } else if let Some([device, behaves]) = gaps(text, "device {} {}") {
        let device = device.to_owned();
        let behaves = Device::from_code(behaves).ok_or_else(|| format!("no device {behaves:?}"))?;
        at_once(move |world| world.set_device(&device, behaves))
    } else {
        return Ok(None);
    }))
}

fn clocks(text: &str, names: &Names) -> Read {
    let wall = |id: u64, ns: i64| at_once(move |world| world.jump_wall_clock(id, ns));
    Ok(Some(if let Some([a, length]) = gaps(text, "the wall clock of {} jumps {} ahead") {
        wall(names.node(a)?, time(length)?.ns() as i64)
    } else if let Some([a, length]) = gaps(text, "the wall clock of {} jumps {} back") {
        wall(names.node(a)?, -(time(length)?.ns() as i64))
    } else if let Some([a, percent]) = gaps(text, "the clock of {} runs at {} %") {
        let (id, ppm) = (names.node(a)?, (number(percent)? * 10_000.0).round() as u64);
        at_once(move |world| world.set_clock_rate(id, ppm))
    } else {
        return Ok(None);
    }))
}

fn people(text: &str, names: &Names) -> Read {
    let Some([asked, what]) = gaps(text, "ask {}: {}") else { return Ok(None) };
    let id = names.node(asked)?;
    let act = |verb: &str, node: &str| -> Result<Kind, String> {
        names.node(node)?;
        Ok(Kind::Act(Act { verb: verb.into(), subjects: vec![node.into()], ..Act::default() }))
    };
    if let Some([bytes]) = gaps(what, "apply the config with {} bytes of comments") {
        let comments = "#\n".repeat(number(bytes)? as usize / 2);
        return Ok(Some(at_once(move |world| {
            let text = format!("{}{comments}", world.text());
            world.operator_asks(id, World::whole_config(text));
        })));
    }
    if let Some([node]) = gaps(what, "confirm that {} is off") {
        let (off, kind) = (names.node(node)?, act("confirm-off", node)?);
        return Ok(Some(at_once(move |world| {
            world.is_seen_off(off);
            world.operator_asks(id, kind.clone());
        })));
    }
    let kind = if let Some([node]) = gaps(what, "switch {} off") {
        act("power-off", node)?
    } else if let Some([node]) = gaps(what, "switch {} on") {
        act("power-on", node)?
    } else if let Some([node]) = gaps(what, "standby {}") {
        act("standby", node)?
    } else if let Some([node]) = gaps(what, "ready {}") {
        act("ready", node)?
    } else if let Some([node]) = gaps(what, "remove {}") {
        act("remove", node)?
    } else if let Some([node]) = gaps(what, "keep {}") {
        act("keep", node)?
    } else if let Some([vip, to]) = gaps(what, "move {} to {}") {
        names.node(to)?;
        Kind::MoveRequest(Give { vip: pack(names.vip(vip)?), to: to.into(), ..Give::default() })
    } else {
        return Ok(None);
    };
    Ok(Some(at_once(move |world| world.operator_asks(id, kind.clone()))))
}
