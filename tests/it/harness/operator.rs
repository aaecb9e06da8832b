//! An operator who uses the admin page with a browser without JavaScript.

use std::net::SocketAddr;

use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};
use url::form_urlencoded;

use super::person::Answer;
use super::world::World;

/// A browser: it keeps the cookie, and the form token of the page that it saw last.
#[derive(Clone)]
pub struct Operator {
    address: SocketAddr,
    client: Client,
    pub cookie: Option<String>,
    pub form_token: String,
}

impl Operator {
    /// Takes a browser that has not entered.
    pub fn at(address: SocketAddr) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { address, client, cookie: None, form_token: String::new() }
    }

    /// Makes a link on the server and enters with it.
    pub async fn enters(world: &World) -> Self {
        let mut operator = Self::at(world.admin_address());
        let entered = operator.uses(&world.admin_token().await).await;
        assert_eq!(entered.status, 303, "{entered:?}");
        operator.opens("/").await;
        operator
    }

    /// Spends the token of a link, as its button does.
    pub async fn uses(&mut self, token: &str) -> Answer {
        self.sends("/enter", &[("token", token)]).await
    }

    /// Opens a page. Its forms are those that are sent from now on.
    pub async fn opens(&mut self, path: &str) -> Answer {
        let answer = self.asks(self.request(Method::GET, path)).await;
        if let Some((_, rest)) = answer.text.split_once("name=\"formtoken\" value=\"") {
            rest.split('"').next().unwrap().clone_into(&mut self.form_token);
        }
        answer
    }

    /// Opens a page and asserts that it is there. Returns its HTML.
    pub async fn sees(&mut self, path: &str) -> String {
        let answer = self.opens(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.text
    }

    /// Sends a form as a browser does, and returns the answer itself.
    pub async fn sends(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let form = self.form(path, fields);
        let form = form.header(ORIGIN, format!("http://{}", self.address));
        self.asks(form.header("sec-fetch-site", "same-origin")).await
    }

    /// Sends a form, asserts that it leads on, and returns the HTML of the page after it.
    pub async fn does(&mut self, path: &str, fields: &[(&str, &str)]) -> String {
        let answer = self.sends(path, fields).await;
        assert_eq!(answer.status, 303, "{path}: {answer:?}");
        let next = answer.headers[LOCATION].to_str().unwrap().to_owned();
        self.sees(&next).await
    }

    /// Makes the request of a form with the token of this session, without headers that say where it comes from.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("formtoken", &self.form_token).extend_pairs(fields);
        let request = self.request(Method::POST, path);
        request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.finish())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        match &self.cookie {
            Some(cookie) => request.header(COOKIE, cookie),
            None => request,
        }
    }

    /// Sends a request, and keeps the cookie that the answer sets.
    pub async fn asks(&mut self, request: RequestBuilder) -> Answer {
        let answer = Answer::of(request.send().await.unwrap()).await;
        if let Some(cookie) = answer.headers.get(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(pair.to_owned());
        }
        answer
    }
}
