//! The page of `catchup dev`, used as a person would. Needs Chromium, so `scripts/test` runs it.

use serde_json::json;

use crate::support::System;
use crate::support::browser::Browser;
use crate::support::process::scratch;

/// The text of a user's list, newest first.
const ITEMS: &str = "[...document.querySelectorAll('#bob li')].map(item => item.innerText)";

#[tokio::test]
#[ignore = "needs Chromium: scripts/test runs it"]
async fn two_users_publish_and_catch_up_in_a_browser() {
    let system = System::builder().demo().start().await;
    let url = format!("http://127.0.0.1:{}/", system.gateway(0).port());
    let mut browser = Browser::open(&url).await;
    browser.appear(1000, 760, false).await;
    let state = |user: &str| format!("document.querySelector('#{user} .state').textContent");
    for user in ["ann", "bob"] {
        browser.until(&format!("{} === 'live'", state(user))).await;
    }

    // By keyboard alone: the first stop is ann's switch, the next is her first button.
    browser.press("Tab").await;
    browser.press("Tab").await;
    browser.press("Enter").await;
    browser
        .until("document.querySelector('#bob li .badge.live') !== null")
        .await;
    let items = browser.evaluate(ITEMS).await;
    assert!(
        items[0].as_str().unwrap().contains("ann likes your post"),
        "{items}"
    );

    // Away: what is published meanwhile waits, and comes in order.
    browser
        .evaluate("document.querySelector('#bob .switch').click()")
        .await;
    browser
        .until(&format!("{} === 'offline'", state("bob")))
        .await;
    for button in ["Comment", "Post", "Delete"] {
        let click = format!(
            "[...document.querySelectorAll('#ann .actions button')]
               .find(button => button.textContent === '{button}').click()"
        );
        browser.evaluate(&click).await;
        let published = "document.querySelector('#bob .counts').textContent";
        let count = match button {
            "Comment" => 1,
            "Post" => 2,
            _ => 3,
        };
        browser
            .until(&format!(
                "{published}.includes('{count} published meanwhile')"
            ))
            .await;
    }
    browser
        .evaluate("document.querySelector('#bob .switch').click()")
        .await;
    browser
        .until("document.querySelectorAll('#bob li .badge.replayed').length === 3")
        .await;
    let texts = "[...document.querySelectorAll('#bob li')].slice(0, 3).map(item =>
        item.querySelectorAll('.badge')[1].textContent)";
    let newest_first = json!(["delete_post", "new_post", "new_comment"]);
    assert_eq!(browser.evaluate(texts).await, newest_first);
    browser.until(&format!("{} === 'live'", state("bob"))).await;

    browser.screenshot(&scratch().join("demo-light.png")).await;
    browser.appear(420, 900, true).await;
    let overflow = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(browser.evaluate(overflow).await, false);
    browser.screenshot(&scratch().join("demo-dark.png")).await;
    assert!(
        browser.complaints().is_empty(),
        "{:?}",
        browser.complaints()
    );

    // All of it was acknowledged: nothing waits.
    crate::support::eventually("empty mailboxes", async || {
        system.waiting("bob").await.is_empty().then_some(())
    })
    .await;
}
