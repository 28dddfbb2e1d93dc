//! The page of `catchup dev`, used as a person would. Needs Chromium, so `scripts/test` runs it.

use std::path::Path;

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::{System, eventually};

/// The text of a user's list, newest first.
const ITEMS: &str = "[...document.querySelectorAll('#bob li')].map(item => item.innerText)";
/// The second badge of the newest three: the types.
const NEWEST_TYPES: &str = "[...document.querySelectorAll('#bob li')].slice(0, 3)
    .map(item => item.querySelectorAll('.badge')[1].textContent)";
const SWITCH_BOB: &str = "document.querySelector('#bob .switch').click()";

#[tokio::test]
#[ignore = "needs Chromium: scripts/test runs it"]
async fn two_users_publish_and_catch_up_in_a_browser() {
    let system = System::builder().demo().start().await;
    let url = format!("http://127.0.0.1:{}/", system.gateway(0).port());
    let mut page = Browser::open(&url).await;
    page.appear(1000, 760, false).await;
    until_state(&mut page, "ann", "live").await;
    until_state(&mut page, "bob", "live").await;

    // By keyboard alone: the first stop is ann's switch, the next is her first button.
    page.press("Tab").await;
    page.press("Tab").await;
    page.press("Enter").await;
    page.until("document.querySelector('#bob li .badge.live') !== null")
        .await;
    let items = page.evaluate(ITEMS).await;
    assert!(
        items[0].as_str().unwrap().contains("ann likes your post"),
        "{items}"
    );

    // Away: what is published meanwhile waits, and comes in order.
    page.evaluate(SWITCH_BOB).await;
    until_state(&mut page, "bob", "offline").await;
    for (count, button) in [(1, "Comment"), (2, "Post"), (3, "Delete")] {
        publish(&mut page, button).await;
        let counts = "document.querySelector('#bob .counts').textContent";
        page.until(&format!("{counts}.includes('{count} published meanwhile')"))
            .await;
    }
    page.evaluate(SWITCH_BOB).await;
    page.until("document.querySelectorAll('#bob li .badge.replayed').length === 3")
        .await;
    let newest_first = json!(["delete_post", "new_post", "new_comment"]);
    assert_eq!(page.evaluate(NEWEST_TYPES).await, newest_first);
    until_state(&mut page, "bob", "live").await;

    // It fits a phone, too; and the browser had nothing to complain about.
    screenshot(&mut page, "light").await;
    page.appear(420, 900, true).await;
    let overflows = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(page.evaluate(overflows).await, false);
    screenshot(&mut page, "dark").await;
    assert!(page.complaints().is_empty(), "{:?}", page.complaints());

    // All of it was acknowledged: nothing waits.
    eventually("an empty mailbox", async || {
        system.waiting("bob").await.is_empty().then_some(())
    })
    .await;
}

async fn until_state(page: &mut Browser, user: &str, state: &str) {
    let shown = format!("document.querySelector('#{user} .state').textContent");
    page.until(&format!("{shown} === '{state}'")).await;
}

/// Clicks one of ann's buttons.
async fn publish(page: &mut Browser, label: &str) {
    let buttons = "[...document.querySelectorAll('#ann .actions button')]";
    let click = format!("{buttons}.find(button => button.textContent === '{label}').click()");
    page.evaluate(&click).await;
}

/// Into the folder that `TEST_SCREENSHOTS` names, for whoever wants to look.
async fn screenshot(page: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("TEST_SCREENSHOTS") {
        page.screenshot(&Path::new(&folder).join(format!("demo-{name}.png")))
            .await;
    }
}
