//! What a line says must fit together.

use nines_model::{
    Forward, Millis, Persist, Proto, Scheduler, SchedulerFlags, Traffic, TunnelKind,
};

use super::{Reader, Refused, usage};
use crate::local::ipvsadm::commands::Command;

impl Reader {
    pub(super) fn forwarding(&self, forward: Forward) -> Result<Forward, Refused> {
        let any = self.options.iter().any(|option| option.starts_with("tun-"));
        if !matches!(forward, Forward::Tunnel(_)) {
            return if any {
                usage("Tunnel options conflict with forward method")
            } else {
                Ok(forward)
            };
        }
        let kind = match self.tunnel.kind {
            TunnelKind::Ipip => "ipip",
            TunnelKind::Gue => "gue",
            TunnelKind::Gre => "gre",
        };
        let illegal: &[&str] = match self.tunnel.kind {
            TunnelKind::Ipip => &["tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"],
            TunnelKind::Gue => &[],
            TunnelKind::Gre => &["tun-port", "tun-remcsum"],
        };
        if self.tunnel.kind == TunnelKind::Gue && self.tunnel.port == 0 {
            return usage(format!(
                "You need to supply the 'tun-port' option for the '{kind}' tunnel type"
            ));
        }
        if let Some(option) = illegal.iter().find(|option| self.options.contains(**option)) {
            return usage(format!("Illegal '{option}' option with the '{kind}' tunnel type"));
        }
        let sums = ["tun-nocsum", "tun-csum", "tun-remcsum"];
        let mut given = sums.iter().filter(|option| self.options.contains(**option));
        if let (Some(one), Some(two)) = (given.next(), given.next()) {
            return usage(format!(
                "The option '{one}' conflicts with the '{two}' option in the '{kind}' tunnel type"
            ));
        }
        Ok(Forward::Tunnel(self.tunnel))
    }

    pub(super) fn flags(&self, scheduler: Scheduler) -> Result<SchedulerFlags, Refused> {
        let mut flags = SchedulerFlags::default();
        for flag in self.sched_flags.iter().flat_map(|text| text.split(',')) {
            let (of, option) = flag.split_once('-').unwrap_or((flag, ""));
            let wanted = match scheduler {
                Scheduler::Sh => "sh",
                Scheduler::Mh => "mh",
                _ => "",
            };
            match (of, option) {
                ("flag", "1") => flags.fallback = true,
                ("flag", "2") => flags.port = true,
                ("flag", "3") => {}
                ("sh" | "mh", "fallback" | "port") if of != wanted => {
                    return usage(format!("incompatible scheduler flag `{flag}'"));
                }
                ("sh" | "mh", "fallback") => flags.fallback = true,
                ("sh" | "mh", "port") => flags.port = true,
                _ => return usage(format!("invalid scheduler flag `{flag}'")),
            }
        }
        Ok(flags)
    }

    pub(super) fn persistence(&self, traffic: Option<Traffic>) -> Result<Option<Persist>, Refused> {
        let v6 = traffic.is_some_and(Traffic::is_ipv6);
        let prefix = match &self.netmask {
            None => {
                if v6 {
                    128
                } else {
                    32
                }
            }
            Some(text) if v6 => match text.parse::<u8>() {
                Ok(prefix @ 1..=128) => prefix,
                _ => return usage("illegal ipv6 netmask specified"),
            },
            Some(text) => {
                let mask = text.parse::<std::net::Ipv4Addr>().map(u32::from);
                match mask {
                    // Leading ones only: a prefix.
                    Ok(mask) if mask != 0 && mask.leading_ones() == mask.count_ones() => {
                        mask.count_ones() as u8
                    }
                    _ => return usage("illegal virtual server persistent mask specified"),
                }
            }
        };
        let time = |seconds: u32| Millis(u64::from(seconds) * 1_000);
        Ok(self.persist.map(|seconds| Persist { time: time(seconds), prefix }))
    }

    pub(super) fn check_options(&self, command: Command) -> Result<(), Refused> {
        let (required, allowed) = command.options();
        if let Some(missing) = required.iter().find(|option| !self.options.contains(**option)) {
            return usage(format!(
                "You need to supply the '{missing}' option for the '{}' command",
                command.name()
            ));
        }
        let known = |option: &&str| required.contains(option) || allowed.contains(option);
        match self.options.iter().find(|option| !known(option)) {
            Some(option) => {
                usage(format!("Illegal '{option}' option with the '{}' command", command.name()))
            }
            None => Ok(()),
        }
    }

    pub(super) fn check_list(&self) -> Result<(), Refused> {
        let has = |option: &&&str| self.options.contains(**option);
        let whole = ["connection", "timeout", "daemon"].iter().filter(has).count();
        let forms = ["stats", "rate", "thresholds", "persistent-conn", "tun-info"];
        let forms = forms.iter().filter(has).count();
        // Connections, too, have a longer form.
        let together = ["connection", "persistent-conn"].iter().filter(has).count() == 2;
        if whole > 1 || forms > 1 || (whole + forms > 1 && !together) {
            return usage("options conflicts in the list command");
        }
        Ok(())
    }
}

pub(super) fn check_service(
    traffic: Option<Traffic>,
    persist: Option<Persist>,
    one_packet: bool,
) -> Result<(), Refused> {
    if let Some(Traffic::To(listen)) = traffic {
        if listen.addr.port() == 0 && persist.is_none() {
            return usage("Zero port specified for non-persistent service");
        }
        if one_packet && listen.proto != Proto::Udp {
            return usage("One-Packet Scheduling is only for UDP virtual services");
        }
    }
    Ok(())
}
