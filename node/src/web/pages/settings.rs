//! Who one is, how private, how it looks, and what programs may do.

use super::*;
use crate::api::Scope;

pub(super) async fn page(page: Page) -> Response {
    match made(&page).await {
        Ok(response) => response,
        Err(failure) => page.failed("/settings", &failure),
    }
}

async fn made(page: &Page) -> Result<Response, Failure> {
    let (status, me) = tokio::try_join!(page.api.status(), page.api.own_id())?;
    let tokens = page.api.token_list().await?;
    let config = page.api.settings.shown()?;
    let look = page.api.settings.look();
    let body = html! {
        h1 { (page.t("settings.title")) }
        section.box {
            h2 { (page.t("settings.privacy")) }
            form #privacy { (welcome::modes(page, status.privacy)) }
            p.dim { (page.t("settings.privacy_at_once")) }
        }
        section.box {
            h2 { (page.t("settings.look")) }
            form.line #look {
                label { (page.t("settings.theme"))
                    select name="page.theme" { @for theme in ["auto", "light", "dark"] {
                        option value=(theme) selected[look.theme == theme] { (page.t(&format!("theme.{theme}"))) }
                    } }
                }
                label { (page.t("settings.language"))
                    select name="page.language" {
                        option value="auto" selected[look.language == "auto"] { (page.t("settings.browsers")) }
                        @for (tag, name) in languages() {
                            option value=(tag) lang=(tag) selected[look.language == tag] { (name) }
                        }
                    }
                }
            }
        }
        section.box {
            h2 { (page.t("settings.identity")) }
            dl {
                dt { (page.t("settings.name")) } dd dir="auto" { (safe(me.name.as_deref().unwrap_or_default())) }
                dt { (page.t("settings.fingerprint")) } dd { code { (me.fingerprint) } br; span.words { (me.words) } }
                dt { (page.t("settings.addresses")) } dd { (me.addresses.join(", ")) }
            }
            form.line #name {
                label.grow { (page.t("settings.rename")) input name="name" required maxlength="64" value=(me.name.as_deref().unwrap_or_default()); }
                button { (page.t("friends.set")) }
            }
            details #certificate {
                summary { (page.t("settings.certificate")) }
                p.dim { (page.t("settings.certificate_how")) }
                div { textarea readonly rows="4" aria-label=(page.t("settings.certificate")) { (me.certificate) } }
            }
            p.acts { button.plain data-act="rotate" { (page.t("settings.rotate")) } }
            p.dim { (page.t("settings.rotate_means")) }
        }
        section.box {
            h2 { (page.t("settings.backup")) }
            p { (page.t("settings.backup_how")) }
            form.line #backup {
                input.hidden type="text" name="username" autocomplete="username" value="kith backup" tabindex="-1" aria-hidden="true";
                label { (page.t("settings.passphrase")) input type="password" name="passphrase" required minlength="8" autocomplete="new-password"; }
                label { (page.t("settings.again")) input type="password" name="again" required autocomplete="new-password"; }
                label.check { input type="checkbox" name="content"; span { (page.t("settings.with_videos")) } }
                button { (page.t("settings.backup_go")) }
            }
        }
        section.box {
            h2 { (page.t("settings.tokens")) }
            p { (page.t("settings.tokens_how")) }
            ul.rows { @for token in &tokens {
                li data-token=(token.name) {
                    span.grow { b dir="auto" { (safe(&token.name)) } " "
                        span.about { (token.scopes.iter().map(|s| page.t(&format!("scope_of.{}", s.as_str())).to_owned()).collect::<Vec<_>>().join(", ")) " · " (day(token.created)) } }
                    button.danger data-act="revoke" { (page.t("settings.revoke")) }
                }
            } }
            form #token {
                label { (page.t("settings.token_name")) input name="name" required maxlength="64"; }
                fieldset.line { legend { (page.t("settings.scopes")) }
                    @for scope in Scope::ALL {
                        label.check { input type="checkbox" name="scope" value=(scope.as_str()) checked[scope == Scope::Read];
                            span { (page.t(&format!("scope_of.{}", scope.as_str()))) } }
                    }
                }
                button { (page.t("settings.token_make")) }
            }
            output #made {}
        }
        section.box {
            h2 { (page.t("settings.all")) }
            p.dim { (page.t("settings.all_how")) }
            details {
                summary { (page.t("settings.show_all")) }
                form #config {
                    @for (key, value) in &config {
                        label.line { code.grow { (key) }
                            input name=(key) value=(value.text()) data-origin=(value.origin) disabled[value.origin == "environment" || value.origin == "set"];
                        }
                    }
                    button { (page.t("friends.set")) }
                }
            }
        }
        p.acts {
            button.plain #logout { (page.t("settings.logout")) }
            button.danger #stop { (page.t("settings.stop")) }
        }
    };
    Ok(page.document("/settings", page.t("settings.title"), Some("settings.js"), body))
}
