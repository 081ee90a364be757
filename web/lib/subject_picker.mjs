// The prompt of "Corrupt Prompt" as the tokenizer cuts it, with the subject marked; a click on a word makes it the subject.
import { api } from "../../../scripts/api.js";
import { element, line } from "./dom.mjs";
import { isLinked, setWidget, widgetOf } from "./node.mjs";
import { t } from "./texts.mjs";

const LONGEST = 4000;
const MOST_WORDS = 600;
const PAUSE = 250;

/** The server's answer, checked: [{text, tokens, part, subject}] and a problem. */
function checked(answer) {
    const words = Array.isArray(answer?.words) ? answer.words.slice(0, MOST_WORDS) : [];
    return {
        problem: line(answer?.problem, 300),
        words: words.filter((word) => typeof word?.text === "string" && Array.isArray(word.tokens)).map((word) => ({
            text: line(word.text, 80), tokens: word.tokens.slice(0, 80).map((token) => line(token, 60)), part: Number(word.part) || 0,
            subject: word.subject === true,
        })),
    };
}

function chip(word, chosen) {
    const tokens = word.tokens.map((token, place) => element("span", {
        style: { borderLeft: place ? "1px dotted currentColor" : "none", padding: "0 3px" },
    }, token));
    return element("button", {
        type: "button", "aria-pressed": String(word.subject), title: t("{word}, tokens: {count}", { word: word.text, count: word.tokens.length }),
        style: {
            font: "12px/1.5 system-ui, sans-serif", cursor: "pointer", borderRadius: "4px", padding: "0 2px", color: word.subject ? "#fff" : "var(--input-text)",
            background: word.subject ? "#b3261e" : "transparent", border: "1px solid var(--border-color)", fontWeight: word.subject ? "bold" : "normal",
        },
        on: { click: (event) => chosen(event.shiftKey) },
    }, ...tokens);
}

/** Hear when the user changes a widget; returns what ends that. */
function follow(widget, changed) {
    const before = widget.callback;
    const heard = function (...args) {
        changed();
        return before?.apply(this, args);
    };
    widget.callback = heard;
    return () => {
        if (widget.callback === heard) widget.callback = before;
    };
}

/** The view of a node. */
export function make(node) {
    const chips = element("div", { role: "group", "aria-label": t("words of the prompt; shift and click for several"), style: { display: "flex", flexWrap: "wrap", gap: "3px" } });
    const said = element("div", { "aria-live": "polite", style: { font: "12px/1.4 system-ui, sans-serif", overflowWrap: "anywhere", marginTop: "4px" } });
    const root = element("div", {
        class: "diff-quickfix-tokens",
        style: {
            padding: "6px", boxSizing: "border-box", overflow: "auto", width: "100%", height: "100%", color: "var(--input-text)",
            background: "var(--comfy-input-bg)", borderRadius: "6px",
        },
    }, chips, said);
    const value = (name) => String(widgetOf(node, name)?.value ?? "");
    let timer = 0;
    let asked = 0;
    let anchor = null;

    function choose(words, place, extend) {
        if (isLinked(node, "subject")) return say(t("The subject is fed by a link; disconnect it to choose here."), true);
        const from = extend && anchor !== null && words[anchor]?.part === words[place].part ? anchor : place;
        if (!extend) anchor = place;
        const [first, last] = [Math.min(from, place), Math.max(from, place)];
        setWidget(node, "subject", words.slice(first, last + 1).map((word) => word.text).join(" "));
        refresh(0);
    }

    function say(text, problem) {
        said.textContent = problem ? `\u26a0 ${text}` : text;
        said.style.fontWeight = problem ? "bold" : "normal";
        root.setAttribute("data-problem", String(Boolean(problem)));
    }

    function show({ words, problem }) {
        chips.replaceChildren(...words.map((word, place) => chip(word, (extend) => choose(words, place, extend))));
        const count = words.reduce((sum, word) => sum + word.tokens.length, 0);
        say(problem || t("{count} tokens; the subject is marked. Click a word to choose it, shift and click for several.", { count }), problem);
    }

    async function ask() {
        const prompt = value("prompt");
        if (isLinked(node, "prompt")) return say(t("The prompt is fed by a link; its words are known when it runs."), false);
        if (prompt.length > LONGEST) return say(t("Prompts of more than {count} characters are not shown here.", { count: LONGEST }), false);
        const number = ++asked;
        let answer = { problem: t("The tokens could not be read from the server.") };
        try {
            const reply = await api.fetchApi("/diff_quickfix/tokens", {
                method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ prompt, subject: value("subject").slice(0, 500) }),
            });
            answer = await reply.json();
        } catch { /* the problem above says it */ }
        if (number === asked) show(checked(answer));
    }

    function refresh(pause = PAUSE) {
        clearTimeout(timer);
        timer = setTimeout(ask, pause);
    }

    const followed = ["prompt", "subject"].map((name) => widgetOf(node, name)).filter(Boolean);
    const letGo = followed.map((widget) => follow(widget, () => refresh()));
    return {
        root,
        restore: () => refresh(0),
        dispose() {
            clearTimeout(timer);
            letGo.forEach((end) => end());
        },
    };
}
