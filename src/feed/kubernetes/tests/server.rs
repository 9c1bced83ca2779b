//! A stand-in for a Kubernetes API server: lists in pages, watches as lines of JSON, versions that are forgotten, credentials
//! and rights, as the real one has them on the wire; and every ill manner that a real one, or what is in front of it, may have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How the server treats who asks.
#[derive(Default, Clone)]
pub struct Manners {
    /// Which bearer token it knows; `None`: any, and none.
    pub token: Option<String>,
    /// Verb and resource, as `("watch", "services")`.
    pub forbidden: Vec<(&'static str, &'static str)>,
    /// Whether it answers pages after the first by 410.
    pub forgets_pages: bool,
    /// Whether a watch of a forgotten version is refused by 410 at once, and not by an event.
    pub refuses_by_status: bool,
    pub has_small_chunks: bool,
    /// Whether it takes requests and says nothing.
    pub hangs: bool,
    pub ends_watches: bool,
    /// The resource whose lists take a while.
    pub lists_slowly: Option<&'static str>,
    /// What it answers to everything: a status line, header lines and a body.
    pub answers: Option<(&'static str, &'static str)>,
    pub tls: Option<Arc<ServerConfig>>,
}

#[derive(Clone)]
pub struct Request {
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub authorization: Option<String>,
}

impl Request {
    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

/// What is told to watches that stand.
#[derive(Clone)]
enum Act {
    Event {
        plural: String,
        kind: &'static str,
        version: u64,
        object: Value,
    },
    /// The version of that moment.
    Bookmark(u64),
    /// A whole line.
    Say(String),
    /// Half a line, and the connection is gone.
    Cut,
    End,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Everything that ever happened.
    log: Vec<Act>,
    /// Versions before it are.
    forgotten: u64,
    /// The rest of lists, by the token that continues them.
    rests: HashMap<String, (u64, Vec<Value>)>,
    requests: Vec<Request>,
    /// The plural of each watch that ever stood.
    stood: Vec<String>,
    manners: Manners,
}

#[derive(Clone)]
pub struct Api {
    pub port: u16,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(Manners::default()).await
    }

    pub async fn start_with(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { version: 100, manners, ..State::default() };
        let api = Self { port, state: Arc::new(Mutex::new(state)), changed: watch::Sender::default() };
        let this = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    let tls = this.state().manners.tls.clone();
                    // How a client leaves is its own affair.
                    let _ = match tls {
                        None => this.serve(stream).await,
                        Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                            Ok(stream) => this.serve(stream).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        api
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state().manners);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How often something was listed from its first page on.
    pub fn lists(&self, plural: &str) -> usize {
        let is_list = |request: &&Request| {
            request.path.ends_with(plural) && !request.is_watch() && !request.query.contains_key("continue")
        };
        self.requests().iter().filter(is_list).count()
    }

    pub fn watches(&self, plural: &str) -> usize {
        self.requests().iter().filter(|request| request.path.ends_with(plural) && request.is_watch()).count()
    }

    /// How many watches of this ever stood.
    pub fn stood(&self, plural: &str) -> usize {
        self.state().stood.iter().filter(|of| *of == plural).count()
    }

    fn tell(&self, act: Act) {
        self.state().log.push(act);
        self.changed.send_replace(());
    }

    /// Makes or changes an object.
    pub fn put(&self, plural: &str, namespace: &str, name: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        object["metadata"]["uid"] = format!("00000000-0000-0000-0000-{version:012}").into();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["metadata"]["managedFields"] = json!([{"manager": "t", "time": format!("{version}")}]);
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(key, object.clone());
        drop(state);
        self.tell(Act::Event { plural: plural.to_owned(), kind, version, object });
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = state.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        drop(state);
        self.tell(Act::Event { plural: plural.to_owned(), kind: "DELETED", version, object });
    }

    /// Sends every watch the version of this moment.
    pub fn bookmark(&self) {
        let version = self.state().version;
        self.tell(Act::Bookmark(version));
    }

    pub fn cut_watches(&self) {
        self.tell(Act::Cut);
    }

    pub fn end_watches(&self) {
        self.tell(Act::End);
    }

    pub fn say(&self, line: &str) {
        self.tell(Act::Say(line.to_owned()));
    }

    pub fn fail_watches(&self, code: u16, message: &str) {
        self.say(&json!({"type": "ERROR", "object": failure(code, message)}).to_string());
    }

    /// Something else happens, and all that is known of the past is forgotten.
    pub fn forget(&self) {
        let mut state = self.state();
        state.version += 10;
        state.forgotten = state.version;
        state.rests.clear();
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let request = request(&String::from_utf8(head).unwrap());
            self.state().requests.push(request.clone());
            let manners = self.state().manners.clone();
            if manners.hangs {
                return std::future::pending().await;
            }
            if let Some((head, body)) = manners.answers {
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            let plural = request.path.rsplit('/').next().unwrap().to_owned();
            let verb = if request.is_watch() { "watch" } else { "list" };
            let token = manners.token.as_ref().map(|token| format!("Bearer {token}"));
            if token.is_some() && token != request.authorization {
                answer(&mut stream, "401 Unauthorized", &failure(401, "Unauthorized")).await?;
            } else if manners.forbidden.contains(&(verb, plural.as_str())) {
                let message = format!(
                    "{plural} is forbidden: User \"system:serviceaccount:edge:penstock\" cannot {verb} resource \"{plural}\" in API \
                     group \"\" at the cluster scope"
                );
                answer(&mut stream, "403 Forbidden", &failure(403, &message)).await?;
            } else if request.is_watch() {
                let version: u64 = request.query["resourceVersion"].parse().unwrap();
                if version < self.state().forgotten && manners.refuses_by_status {
                    let failure = failure(410, &format!("too old resource version: {version}"));
                    answer(&mut stream, "410 Gone", &failure).await?;
                    continue;
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                self.watch(&mut stream, &request, &plural, version).await?;
            } else {
                if manners.lists_slowly == Some(plural.as_str()) {
                    tokio::time::sleep(Duration::from_millis(600)).await;
                }
                match self.list(&request, &plural) {
                    Ok(list) => answer(&mut stream, "200 OK", &list).await?,
                    Err(failure) => answer(&mut stream, "410 Gone", &failure).await?,
                }
            }
        }
    }

    fn list(&self, request: &Request, plural: &str) -> Result<Value, Value> {
        let mut state = self.state();
        let (version, mut items) = match request.query.get("continue") {
            Some(token) => {
                let rest = if state.manners.forgets_pages { None } else { state.rests.remove(token) };
                rest.ok_or_else(|| failure(410, "The provided continue parameter is too old"))?
            }
            None => {
                let of = state.objects.iter().filter(|((of, ..), object)| of == plural && is_wanted(request, object));
                (state.version, of.map(|(_, object)| object.clone()).collect())
            }
        };
        let limit = request.query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if items.len() > limit {
            let token = format!("{version}+{}/{}=", items.len(), plural);
            metadata["continue"] = token.clone().into();
            metadata["remainingItemCount"] = (items.len() - limit).into();
            let rest = items.split_off(limit);
            state.rests.insert(token, (version, rest));
        }
        // Go writes an empty list that was never made so.
        let items = if items.is_empty() { Value::Null } else { items.into() };
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    async fn watch(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        request: &Request,
        plural: &str,
        from: u64,
    ) -> io::Result<()> {
        let mut changed = self.changed.subscribe();
        let (begin, manners, is_forgotten) = {
            let mut state = self.state();
            state.stood.push(plural.to_owned());
            (state.log.len(), state.manners.clone(), from < state.forgotten)
        };
        if is_forgotten {
            let event = json!({"type": "ERROR", "object": failure(410, &format!("too old resource version: {from}"))});
            chunk(stream, &format!("{event}\n"), false).await?;
        }
        if is_forgotten || manners.ends_watches {
            return stream.write_all(b"0\r\n\r\n").await;
        }
        for index in 0.. {
            let act = loop {
                let act = self.state().log.get(index).cloned();
                match act {
                    Some(act) => break act,
                    None => _ = changed.changed().await,
                }
            };
            let line = match act {
                Act::Event { plural: of, kind, version, object } => {
                    if of != plural || version <= from || !is_wanted(request, &object) {
                        continue;
                    }
                    json!({"type": kind, "object": object}).to_string()
                }
                _ if index < begin => continue,
                Act::Bookmark(version) => {
                    let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
                    json!({"type": "BOOKMARK", "object": {"kind": "Service", "apiVersion": "v1", "metadata": metadata}})
                        .to_string()
                }
                Act::Say(line) => line,
                Act::Cut => {
                    chunk(stream, "{\"type\":\"ADDED\",\"obj", false).await?;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Act::End => return stream.write_all(b"0\r\n\r\n").await,
            };
            chunk(stream, &format!("{line}\n"), manners.has_small_chunks).await?;
        }
        Ok(())
    }
}

fn request(head: &str) -> Request {
    let target = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), decoded(value))
    };
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
    let mut lines = head.lines();
    let authorization =
        lines.find_map(|line| Some(line.split_once(": ").filter(|(name, _)| *name == "authorization")?.1));
    Request { path: path.to_owned(), query, authorization: authorization.map(str::to_owned) }
}

fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        decoded.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        decoded.extend(&piece.as_bytes()[2..]);
    }
    String::from_utf8(decoded).unwrap()
}

/// Whether an object is in the namespace, and has the one label, that are asked for.
fn is_wanted(request: &Request, object: &Value) -> bool {
    let namespace = request.path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
    let label = request.query.get("labelSelector").map(|selector| selector.split_once('=').unwrap());
    namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
        && label.is_none_or(|(name, value)| object["metadata"]["labels"][name] == value)
}

fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code})
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), status: &str, value: &Value) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    chunk(stream, &format!("{value}\n"), false).await?;
    stream.write_all(b"0\r\n\r\n").await
}

async fn chunk(stream: &mut (impl AsyncWrite + Unpin), text: &str, are_small: bool) -> io::Result<()> {
    let size = if are_small { 7 } else { text.len() };
    for piece in text.as_bytes().chunks(size) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        stream.write_all(piece).await?;
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
        if are_small {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}
