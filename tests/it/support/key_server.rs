//! A server of key sets (JWKS) that answers as the test says: well, badly, or not at all.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the server answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These keys.
    Keys(Vec<Value>),
    Body(Bytes),
    Status(u16),
    /// Somewhere else; `/keys` of the same server gives the last keys.
    Redirect(String),
    /// Nothing, for as long as the client waits.
    Nothing,
}

/// The server; it ends with the test.
pub struct KeyServer {
    port: u16,
    state: Arc<State>,
}

struct State {
    answer: Mutex<Answer>,
    /// The last keys, for `/keys`.
    keys: Mutex<Vec<Value>>,
    requests: AtomicUsize,
}

impl KeyServer {
    pub async fn start(answer: Answer) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            answer: Mutex::new(Answer::Nothing),
            keys: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let server = KeyServer {
            port,
            state: Arc::clone(&state),
        };
        server.answer(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request| respond(Arc::clone(&state), request));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    /// For `CATCHUP_JWKS_URL`. Its query must be nobody's to see.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks.json?key=hunter2", self.port)
    }

    /// The keys under another address.
    pub fn other_url(&self) -> String {
        format!("http://127.0.0.1:{}/keys", self.port)
    }

    /// From here on it answers this.
    pub fn answer(&self, answer: Answer) {
        if let Answer::Keys(keys) = &answer {
            *self.state.keys.lock().expect("not poisoned") = keys.clone();
        }
        *self.state.answer.lock().expect("not poisoned") = answer;
    }

    /// How often it was asked.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

async fn respond(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let set = |keys: &[Value]| Full::new(Bytes::from(json!({ "keys": keys }).to_string()));
    if request.uri().path() == "/keys" {
        let keys = state.keys.lock().expect("not poisoned");
        return Ok(Response::new(set(&keys)));
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    let answer = state.answer.lock().expect("not poisoned").clone();
    let mut response = Response::new(Full::default());
    match answer {
        Answer::Keys(keys) => *response.body_mut() = set(&keys),
        Answer::Body(bytes) => *response.body_mut() = Full::new(bytes),
        Answer::Status(status) => {
            *response.status_mut() = status.try_into().expect("a status");
        }
        Answer::Redirect(url) => {
            *response.status_mut() = 302.try_into().expect("a status");
            (response.headers_mut()).insert(LOCATION, url.try_into().expect("a header"));
        }
        Answer::Nothing => pending().await,
    }
    Ok(response)
}
