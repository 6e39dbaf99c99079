use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use zookeeper_client::{
    Acl, Acls, AddWatchMode, AuthId, Client, CreateMode, CreateOptions, Error, EventType, LockPrefix, MultiReadResult,
    MultiWriteError, MultiWriteResult, Permission, SessionState, WatchedEvent,
};

use crate::relay::Relay;
use crate::{soon, soon_in_state, text, Env, Need, Test, TestResult};

macro_rules! tests {
    ($($name:ident $need:ident,)*) => {
        pub const TESTS: &[Test] = &[
            $(Test { name: stringify!($name), need: Need::$need, run: |env| Box::pin($name(env)) },)*
        ];
    };
}

tests! {
    nodes_are_created_read_set_and_deleted Nothing,
    versions_are_checked Nothing,
    names_are_numbered Nothing,
    a_container_is_created Nothing,
    ephemerals_go_with_their_session Nothing,
    requests_are_answered_in_order Nothing,
    one_shot_watches_fire_once Nothing,
    a_dropped_watch_is_removed Nothing,
    a_multi_happens_as_a_whole Nothing,
    a_failed_multi_changes_nothing Nothing,
    acls_are_kept Nothing,
    locks_exclude Nothing,
    a_lost_connection_is_made_up_for Nothing,
    a_detached_session_is_taken_up Nothing,
    persistent_watches_stay AddWatch,
    descendants_and_ephemerals_are_counted Counts,
    several_reads_are_one_request MultiRead,
    identities_are_told WhoAmI,
}

const PERSISTENT: &CreateOptions<'static> = &CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: &CreateOptions<'static> = &CreateMode::Ephemeral.with_acls(Acls::anyone_all());

async fn nodes_are_created_read_set_and_deleted(env: Env) -> TestResult {
    let client = env.client().await?;
    let (created, _) = client.create("/a", b"one", PERSISTENT).await?;
    assert_eq!(client.get_data("/a").await?, (b"one".to_vec(), created));
    assert_eq!(client.check_stat("/a").await?, Some(created));
    assert_eq!((created.version, created.data_length, created.ephemeral_owner), (0, 3, 0));
    assert_eq!(created.czxid, created.mzxid);

    let set = client.set_data("/a", b"other", None).await?;
    assert_eq!((set.version, set.data_length, set.czxid), (1, 5, created.czxid));
    assert!(set.mzxid > created.mzxid);

    assert_eq!(client.create("/a", b"", PERSISTENT).await, Err(Error::NodeExists));
    assert_eq!(client.create("/nope/b", b"", PERSISTENT).await, Err(Error::NoNode));
    client.create("/a/b", b"", PERSISTENT).await?;
    client.create("/a/c", b"", PERSISTENT).await?;
    let (mut children, stat) = client.get_children("/a").await?;
    children.sort();
    assert_eq!((children, stat.num_children, stat.cversion), (vec!["b".to_owned(), "c".to_owned()], 2, 2));
    assert_eq!(client.list_children("/a/b").await?, Vec::<String>::new());

    assert_eq!(client.delete("/a", None).await, Err(Error::NotEmpty));
    client.delete("/a/b", None).await?;
    client.delete("/a/c", None).await?;
    client.delete("/a", None).await?;
    assert_eq!(client.delete("/a", None).await, Err(Error::NoNode));
    assert_eq!(client.get_data("/a").await, Err(Error::NoNode));
    assert_eq!(client.list_children("/a").await, Err(Error::NoNode));
    assert_eq!(client.check_stat("/a").await?, None);
    client.sync("/").await?;
    Ok(())
}

async fn versions_are_checked(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/a", b"", PERSISTENT).await?;
    client.set_data("/a", b"1", Some(0)).await?;
    assert_eq!(client.set_data("/a", b"2", Some(0)).await, Err(Error::BadVersion));
    assert_eq!(client.delete("/a", Some(0)).await, Err(Error::BadVersion));
    assert_eq!(client.set_acl("/a", &Acls::anyone_all(), Some(7)).await, Err(Error::BadVersion));
    client.delete("/a", Some(1)).await?;
    Ok(())
}

async fn names_are_numbered(env: Env) -> TestResult {
    let client = env.client().await?;
    let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    for want in 0..5 {
        let options = if want % 2 == 0 { &sequential } else { &ephemeral };
        let (_, sequence) = client.create("/n-", b"", options).await?;
        assert_eq!(sequence.into_i64(), want);
    }
    assert!(client.check_stat("/n-0000000004").await?.is_some());
    Ok(())
}

async fn a_container_is_created(env: Env) -> TestResult {
    let client = env.client().await?;
    let (stat, _) = client.create("/box", b"x", &CreateMode::Container.with_acls(Acls::anyone_all())).await?;
    assert_eq!(stat.ephemeral_owner, 0, "the marker of a container is not shown");
    client.create("/box/thing", b"", PERSISTENT).await?;
    assert_eq!(client.list_children("/box").await?, ["thing"]);
    Ok(())
}

async fn ephemerals_go_with_their_session(env: Env) -> TestResult {
    let observer = env.client().await?;
    let owner = env.client().await?;
    let (stat, _) = owner.create("/mine", b"", EPHEMERAL).await?;
    assert_eq!(stat.ephemeral_owner, owner.session_id().0);
    assert_eq!(owner.create("/mine/child", b"", PERSISTENT).await, Err(Error::NoChildrenForEphemerals));
    let (seen, deleted) = observer.check_and_watch_stat("/mine").await?;
    assert_eq!(seen, Some(stat));
    drop(owner);
    assert_eq!(text(&soon("the node's deletion", deleted.changed()).await), "NodeDeleted /mine");
    assert_eq!(observer.check_stat("/mine").await?, None);
    Ok(())
}

async fn requests_are_answered_in_order(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/a", b"", PERSISTENT).await?;
    // Calls send at once; awaiting comes later. Each read sees the write before it.
    let pairs: Vec<_> = (0..500)
        .map(|n: i32| (client.set_data("/a", n.to_string().as_bytes(), Some(n)), client.get_data("/a")))
        .collect();
    for (n, (set, get)) in pairs.into_iter().enumerate() {
        let stat = set.await?;
        assert_eq!(get.await?, (n.to_string().into_bytes(), stat));
    }
    Ok(())
}

/// Servers of 3.9 tell the zxid of the change with the event, older ones none.
fn assert_zxid(event: &WatchedEvent, zxid: i64) {
    assert!(event.zxid == WatchedEvent::NO_ZXID || event.zxid == zxid, "{event:?}: want zxid {zxid}");
}

async fn one_shot_watches_fire_once(env: Env) -> TestResult {
    let watcher = env.client().await?;
    let writer = env.client().await?;

    let (stat, created) = watcher.check_and_watch_stat("/a").await?;
    assert_eq!(stat, None);
    let (stat, _) = writer.create("/a", b"", PERSISTENT).await?;
    let event = soon("creation", created.changed()).await;
    assert_eq!(text(&event), "NodeCreated /a");
    assert_zxid(&event, stat.czxid);

    let (_, _, data) = watcher.get_and_watch_data("/a").await?;
    let (_, children) = watcher.list_and_watch_children("/a").await?;
    let stat = writer.set_data("/a", b"1", None).await?;
    let event = soon("a change of data", data.changed()).await;
    assert_eq!(text(&event), "NodeDataChanged /a");
    assert_zxid(&event, stat.mzxid);
    let (stat, _) = writer.create("/a/b", b"", PERSISTENT).await?;
    let event = soon("a change of children", children.changed()).await;
    assert_eq!(text(&event), "NodeChildrenChanged /a");
    assert_zxid(&event, stat.czxid);

    // The second change finds no watch; the deletion fires the watches set after it.
    writer.set_data("/a", b"2", None).await?;
    writer.delete("/a/b", None).await?;
    let (data, _, changed) = watcher.get_and_watch_data("/a").await?;
    assert_eq!(data, b"2");
    let (_, _, children) = watcher.get_and_watch_children("/a").await?;
    writer.delete("/a", None).await?;
    assert_eq!(soon("deletion", changed.changed()).await.event_type, EventType::NodeDeleted);
    assert_eq!(soon("deletion", children.changed()).await.event_type, EventType::NodeDeleted);
    Ok(())
}

async fn a_dropped_watch_is_removed(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/a", b"", PERSISTENT).await?;
    // The drop sends removeWatches, whose error would end up in nobody's hands: what shows it is that
    // the connection lives on, and that a new watch works.
    let (_, _, watcher) = client.get_and_watch_data("/a").await?;
    drop(watcher);
    client.set_data("/a", b"1", None).await?;
    let (_, _, watcher) = client.get_and_watch_data("/a").await?;
    client.set_data("/a", b"2", None).await?;
    assert_eq!(text(&soon("a change of data", watcher.changed()).await), "NodeDataChanged /a");
    assert_eq!(client.state(), SessionState::SyncConnected);
    Ok(())
}

async fn a_multi_happens_as_a_whole(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/old", b"", PERSISTENT).await?;
    let mut multi = client.new_multi_writer();
    multi.add_check_version("/old", 0)?;
    multi.add_create("/new", b"1", PERSISTENT)?;
    multi.add_set_data("/new", b"2", Some(0))?;
    multi.add_delete("/old", None)?;
    let results = multi.commit().await?;
    let (data, stat) = client.get_data("/new").await?;
    assert_eq!(data, b"2");
    assert_eq!(results.len(), 4);
    assert_eq!(results[0], MultiWriteResult::Check);
    assert!(matches!(&results[1], MultiWriteResult::Create { path, .. } if path == "/new"), "{:?}", results[1]);
    assert_eq!(results[2], MultiWriteResult::SetData { stat });
    assert_eq!(results[3], MultiWriteResult::Delete);
    assert_eq!(stat.czxid, stat.mzxid, "one multi has one zxid");
    assert_eq!(client.check_stat("/old").await?, None);
    Ok(())
}

async fn a_failed_multi_changes_nothing(env: Env) -> TestResult {
    let client = env.client().await?;
    let mut multi = client.new_multi_writer();
    multi.add_create("/a", b"", PERSISTENT)?;
    multi.add_delete("/nope", None)?;
    multi.add_create("/b", b"", PERSISTENT)?;
    assert_eq!(multi.commit().await, Err(MultiWriteError::OperationFailed { index: 1, source: Error::NoNode }));
    assert_eq!(client.check_stat("/a").await?, None);

    client.create("/a", b"", PERSISTENT).await?;
    let mut check = client.new_check_writer("/a", Some(3))?;
    check.add_delete("/a", None)?;
    assert!(check.commit().await.is_err());
    assert!(client.check_stat("/a").await?.is_some());
    Ok(())
}

async fn acls_are_kept(env: Env) -> TestResult {
    let owner = Client::connector().with_auth("digest", b"anna:secret").connect(&env.at(&env.server)).await?;
    let stranger = env.client().await?;
    owner.create("/a", b"1", &CreateMode::Persistent.with_acls(Acls::creator_all())).await?;
    assert_eq!(owner.get_data("/a").await?.0, b"1");
    assert_eq!(stranger.get_data("/a").await, Err(Error::NoAuth));
    assert_eq!(stranger.set_data("/a", b"", None).await, Err(Error::NoAuth));

    let everyone_reads = [
        Acl::new(Permission::ALL, AuthId::new("digest", "anna:Wap/fLaD11BLJBT+7fkDcVxaT7c=")),
        Acl::new(Permission::READ, AuthId::anyone()),
    ];
    let stat = owner.set_acl("/a", &everyone_reads, Some(0)).await?;
    assert_eq!((stat.aversion, stat.version), (1, 0));
    assert_eq!(owner.get_acl("/a").await?, (everyone_reads.to_vec(), stat));
    assert_eq!(stranger.get_data("/a").await?.0, b"1");

    stranger.auth("digest", b"anna:secret").await?;
    stranger.set_data("/a", b"2", None).await?;
    assert_eq!(env.client().await?.auth("nonsense", b"").await, Err(Error::AuthFailed));
    Ok(())
}

async fn locks_exclude(env: Env) -> TestResult {
    let holders = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    let rounds = 10;
    let clients = 4;
    for name in 0..clients {
        let client = env.client().await?;
        let holders = holders.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..rounds {
                let prefix = LockPrefix::new_curator("/locks", "lock-")?;
                let options = zookeeper_client::LockOptions::new(Acls::anyone_all())
                    .with_ancestor_options(CreateMode::Persistent.with_acls(Acls::anyone_all()))?;
                let lock = client.lock(prefix, name.to_string().as_bytes(), options).await?;
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "one holder at a time");
                match client.get_data("/count").await {
                    Err(Error::NoNode) => lock.create("/count", b"1", PERSISTENT).await.map(drop)?,
                    count => {
                        let count: u32 = String::from_utf8_lossy(&count?.0).parse().expect("a number");
                        lock.set_data("/count", (count + 1).to_string().as_bytes(), None).await.map(drop)?
                    }
                }
                holders.fetch_sub(1, Ordering::SeqCst);
            }
            Ok::<(), Error>(())
        }));
    }
    for task in tasks {
        soon("all rounds", task).await??;
    }
    let (count, _) = env.client().await?.get_data("/count").await?;
    assert_eq!(String::from_utf8(count)?, (rounds * clients).to_string());
    Ok(())
}

async fn a_lost_connection_is_made_up_for(env: Env) -> TestResult {
    let relay = Relay::start(&env.server).await?;
    let client = Client::connector().with_auth("digest", b"anna:secret").connect(&env.at(&relay.address())).await?;
    let other = env.client().await?;
    client.create("/a", b"0", PERSISTENT).await?;
    client.create("/mine", b"", EPHEMERAL).await?;
    client.create("/annas", b"", &CreateMode::Persistent.with_acls(Acls::creator_all())).await?;
    let (_, _, data) = client.get_and_watch_data("/a").await?;
    let (_, created) = client.check_and_watch_stat("/later").await?;
    let (_, children) = client.list_and_watch_children("/a").await?;

    relay.cut();
    soon_in_state(&client, SessionState::Disconnected).await;
    other.set_data("/a", b"1", None).await?;
    assert!(other.check_stat("/mine").await?.is_some(), "the session lives on without a connection");
    relay.heal();
    soon_in_state(&client, SessionState::SyncConnected).await;

    // Watches are set again, and one that missed its event gets it now.
    assert_eq!(text(&soon("the missed event", data.changed()).await), "NodeDataChanged /a");
    other.create("/later", b"", PERSISTENT).await?;
    assert_eq!(text(&soon("creation", created.changed()).await), "NodeCreated /later");
    other.create("/a/b", b"", PERSISTENT).await?;
    assert_eq!(text(&soon("a change of children", children.changed()).await), "NodeChildrenChanged /a");
    // So are credentials.
    client.get_data("/annas").await?;
    let owner = client.check_stat("/mine").await?.map(|stat| stat.ephemeral_owner);
    assert_eq!(owner, Some(client.session_id().0));
    Ok(())
}

async fn a_detached_session_is_taken_up(env: Env) -> TestResult {
    let first = Client::connector().with_detached().connect(&env.at(&env.server)).await?;
    first.create("/mine", b"", EPHEMERAL).await?;
    let session = first.session().clone();
    drop(first);

    let second = Client::connector().with_session(session.clone()).connect(&env.at(&env.server)).await?;
    assert_eq!(second.session_id(), session.id());
    let owner = second.check_stat("/mine").await?.map(|stat| stat.ephemeral_owner);
    assert_eq!(owner, Some(session.id().0));

    let observer = env.client().await?;
    let (_, deleted) = observer.check_and_watch_stat("/mine").await?;
    drop(second);
    soon("the node's deletion with its session", deleted.changed()).await;
    let late = Client::connector().with_session(session).connect(&env.at(&env.server)).await;
    assert_eq!(late.err(), Some(Error::SessionExpired));
    Ok(())
}

// That they outlive a lost connection cannot be tested with 0.11.2: it sets all watches again by
// setWatches, which knows no persistent ones (`index.max(index)` in its `resend_watches`).
async fn persistent_watches_stay(env: Env) -> TestResult {
    // Servers before 3.9 keep one mode for a path and a session.
    let (node_watcher, tree_watcher, writer) = (env.client().await?, env.client().await?, env.client().await?);
    writer.create("/a", b"", PERSISTENT).await?;
    let mut node = node_watcher.watch("/a", AddWatchMode::Persistent).await?;
    let mut tree = tree_watcher.watch("/a", AddWatchMode::PersistentRecursive).await?;
    writer.set_data("/a", b"1", None).await?;
    writer.set_data("/a", b"2", None).await?;
    writer.create("/a/b", b"", PERSISTENT).await?;
    writer.set_data("/a/b", b"1", None).await?;
    writer.delete("/a/b", None).await?;
    writer.delete("/a", None).await?;
    for want in [
        "NodeDataChanged /a",
        "NodeDataChanged /a",
        "NodeChildrenChanged /a",
        "NodeChildrenChanged /a",
        "NodeDeleted /a",
    ] {
        assert_eq!(text(&soon("an event of the node", node.changed()).await), want);
    }
    for want in [
        "NodeDataChanged /a",
        "NodeDataChanged /a",
        "NodeCreated /a/b",
        "NodeDataChanged /a/b",
        "NodeDeleted /a/b",
        "NodeDeleted /a",
    ] {
        assert_eq!(text(&soon("an event of the tree", tree.changed()).await), want);
    }
    Ok(())
}

async fn descendants_and_ephemerals_are_counted(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/a", b"", PERSISTENT).await?;
    client.create("/a/b", b"", PERSISTENT).await?;
    client.create("/a/b/c", b"", EPHEMERAL).await?;
    assert_eq!(client.count_descendants_number("/a").await?, 2);
    assert_eq!(client.count_descendants_number("/nope").await, Err(Error::NoNode));
    assert_eq!(client.list_ephemerals("/a").await?, ["/a/b/c"]);
    assert_eq!(env.client().await?.list_ephemerals("/a").await?, Vec::<String>::new());
    Ok(())
}

async fn several_reads_are_one_request(env: Env) -> TestResult {
    let client = env.client().await?;
    client.create("/a", b"1", PERSISTENT).await?;
    client.create("/a/b", b"", PERSISTENT).await?;
    let mut reads = client.new_multi_reader();
    reads.add_get_data("/a")?;
    reads.add_get_data("/nope")?;
    reads.add_get_children("/a")?;
    let results = reads.commit().await?;
    assert_eq!(results.len(), 3);
    assert!(matches!(&results[0], MultiReadResult::Data { data, .. } if data == b"1"), "{:?}", results[0]);
    assert!(matches!(&results[1], MultiReadResult::Error { err: Error::NoNode }), "{:?}", results[1]);
    assert!(matches!(&results[2], MultiReadResult::Children { children } if children == &["b"]), "{:?}", results[2]);
    Ok(())
}

async fn identities_are_told(env: Env) -> TestResult {
    let client = env.client().await?;
    client.auth("digest", b"anna:secret").await?;
    let users = client.list_auth_users().await?;
    let mut told: Vec<_> = users.iter().map(|user| format!("{}:{}", user.scheme(), user.user())).collect();
    told.sort();
    assert_eq!(told, ["digest:anna", "ip:127.0.0.1"]);
    Ok(())
}
