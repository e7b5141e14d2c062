//! Who becomes a member, who is refused and why, and that this node never is its own peer.

use super::*;
use crate::core::base::ids::{Epoch, Seq};
use crate::core::mesh::readiness::TrafficState;
use crate::core::mesh::wire::{PeerLimits, ProtocolRange};

const OWN: InstanceId = InstanceId([1; 16]);

fn own() -> OwnIdentity {
    OwnIdentity {
        node_url: "http://a:7443".to_owned(),
        tenant_id: "default".to_owned(),
        instance_id: OWN,
        store_id: Some(StoreId([1; 16])),
    }
}

fn seed(name: &str) -> StatusReply {
    StatusReply {
        region: "eu".to_owned(),
        tenant_id: "default".to_owned(),
        node_url: format!("http://{name}:7443"),
        kura: None,
    }
}

fn kura(name: &str, instance: u8, store: u8) -> StatusReply {
    let kura = KuraStatus {
        store_id: Some(StoreId([store; 16])),
        instance_id: InstanceId([instance; 16]),
        epoch: Some(Epoch([store; 8])),
        head_seq: Some(Seq(1)),
        protocol: ProtocolRange { min: 1, max: 1 },
        features: Vec::new(),
        limits: PeerLimits { page_bytes_max: 1, page_rows_max: 1, body_bytes_max: 1 },
        now_ms: 1,
        version: String::new(),
        state: TrafficState::Serving,
        complete: true,
        evicted_floor_ms: 0,
        artifacts: 0,
        body_bytes: 0,
        seen_inbound: Vec::new(),
    };
    StatusReply { kura: Some(kura), ..seed(name) }
}

fn apply(table: &mut MemberTable, replies: Vec<(&str, Result<StatusReply, &str>)>) {
    let replies = replies.into_iter().map(|(url, reply)| (format!("http://{url}:7443"), reply.map_err(str::to_owned)));
    table.apply(&own(), replies.collect(), 1);
}

fn shown(table: &MemberTable) -> Vec<(&str, bool)> {
    table.members().map(|member| (member.node_url.as_str(), member.reachable)).collect()
}

#[test]
fn answers_become_members_and_missed_ones_stay_as_unreachable() {
    let mut table = MemberTable::default();
    apply(&mut table, vec![("b", Ok(kura("b", 2, 2))), ("c", Ok(seed("c"))), ("d", Err("refused"))]);
    assert_eq!(shown(&table), [("http://b:7443", true), ("http://c:7443", true), ("http://d:7443", false)]);
    apply(&mut table, vec![("b", Err("reset")), ("c", Ok(seed("c"))), ("d", Err("refused"))]);
    let b = table.members().next().unwrap();
    assert!(!b.reachable && b.store_id() == Some(StoreId([2; 16])) && !b.is_usable());
}

#[test]
fn this_node_is_never_a_member_by_whatever_address_it_is_found() {
    let mut table = MemberTable::default();
    apply(&mut table, vec![("10.0.0.1", Ok(kura("a", 1, 1)))]);
    assert_eq!((shown(&table).len(), table.refusals().len()), (0, 0));
    let targets = Targets { urls: vec!["http://10.0.0.1:7443".to_owned()], dns_answered: true, ..Targets::default() };
    assert!(table.addresses(&targets).is_empty(), "an address found to be our own is not dialled again");
}

#[test]
fn one_node_at_two_addresses_is_one_member() {
    let mut table = MemberTable::default();
    apply(&mut table, vec![("b", Ok(kura("b", 2, 2))), ("10.0.0.2", Ok(kura("b", 2, 2)))]);
    apply(&mut table, vec![("c", Ok(seed("c"))), ("10.0.0.3", Ok(seed("c")))]);
    assert_eq!(shown(&table), [("http://c:7443", true)]);
}

#[test]
fn strangers_are_refused_with_a_named_reason() {
    let refused = |status: StatusReply| {
        let mut table = MemberTable::default();
        apply(&mut table, vec![("x", Ok(status))]);
        assert!(shown(&table).is_empty());
        table.refusals()[0].kind
    };
    assert_eq!(refused(StatusReply { tenant_id: "acme".to_owned(), ..seed("x") }), RefusalKind::Tenant);
    assert_eq!(refused(seed("a")), RefusalKind::SameUrl);
    assert_eq!(refused(kura("x", 2, 1)), RefusalKind::ClonedStore);
    let mut later = kura("x", 2, 2);
    later.kura.as_mut().unwrap().protocol = ProtocolRange { min: 7, max: 9 };
    assert_eq!(refused(later), RefusalKind::Protocol);
}

#[test]
fn a_node_all_of_whose_peers_are_refused_has_met_nobody() {
    let mut table = MemberTable::default();
    let stranger = || Ok(StatusReply { tenant_id: "acme".to_owned(), ..seed("x") });
    apply(&mut table, vec![("a", Ok(kura("a", 1, 1)))]);
    assert!(!table.only_strangers(), "this node alone is a mesh");
    apply(&mut table, vec![("x", stranger()), ("d", Err("refused"))]);
    assert!(table.only_strangers());
    apply(&mut table, vec![("x", stranger()), ("b", Ok(kura("b", 2, 2)))]);
    assert!(!table.only_strangers());
}

#[test]
fn of_two_processes_with_one_store_id_the_second_is_refused() {
    let mut table = MemberTable::default();
    apply(&mut table, vec![("b", Ok(kura("b", 2, 9))), ("c", Ok(kura("c", 3, 9)))]);
    assert_eq!(shown(&table), [("http://b:7443", true)]);
    assert_eq!(table.refusals()[0].kind, RefusalKind::ClonedStore);
}

#[test]
fn a_member_that_answers_stays_after_its_name_is_gone() {
    let mut table = MemberTable::default();
    apply(&mut table, vec![("b", Ok(kura("b", 2, 2))), ("c", Err("refused"))]);
    let gone = Targets { dns_answered: true, ..Targets::default() };
    assert_eq!(table.addresses(&gone), ["http://b:7443"]);
    let silent = Targets { dns_answered: false, ..Targets::default() };
    assert_eq!(table.addresses(&silent), ["http://b:7443", "http://c:7443"], "a silent resolver forgets nobody");
}
