// The prompt of "Corrupt Prompt" as the tokenizer cuts it, with the subject marked; a click on a word makes it the subject.
import { api } from "../../../scripts/api.js";
import { entriesOf, fieldsOf, line } from "./data.mjs";
import { element } from "./dom.mjs";
import { setWidget, widgetOf } from "./node.mjs";
import { t } from "./texts.mjs";
import { isFed } from "./wires.mjs";

const LONGEST = 4000;
const LONGEST_SUBJECT = 500;
const MOST_WORDS = 600;
const PAUSE = 250;
const SMALL = { font: "12px/1.4 system-ui, sans-serif", overflowWrap: "anywhere" };

/**
 * A word of the prompt: its tokens' texts and how many tokens it has, the part of 77 tokens that it is in, whether it is of the
 * subject, and whether it can be: an embedding cannot.
 * @typedef {{text: string, tokens: string[], count: number, part: number, subject: boolean, choosable: boolean}} Word
 */
/**
 * What the node reads: the texts of its widgets, and which of them links take the place of.
 * @typedef {{prompt: string, subject: string, promptFed: boolean, subjectFed: boolean}} Read
 */

/**
 * @param {unknown} entry
 * @returns {Word[]}
 */
function checkedWord(entry) {
    const word = fieldsOf(entry);
    if (typeof word?.text !== "string" || !Array.isArray(word.tokens)) return [];
    const tokens = entriesOf(word.tokens, 80).map((token) => line(token, 60));
    return [{
        text: line(word.text, 80), tokens, count: Number(word.count) || tokens.length, part: Number(word.part) || 0,
        subject: word.subject === true, choosable: word.choosable !== false,
    }];
}

/**
 * The server's answer, checked: words and a problem.
 * @param {unknown} given
 */
function checked(given) {
    const answer = fieldsOf(given) ?? {};
    return { problem: line(answer.problem, 300), words: entriesOf(answer.words, MOST_WORDS).flatMap(checkedWord) };
}

/**
 * A word with its tokens: a button where it can be chosen.
 * @param {Word} word
 * @param {((extend: boolean) => void) | null} chosen
 */
function chip(word, chosen) {
    const tokens = word.tokens.map((token, place) => element("span", {
        style: { borderLeft: place ? "1px dotted currentColor" : "none", padding: "0 3px" },
    }, token));
    const style = {
        font: "12px/1.5 system-ui, sans-serif", borderRadius: "4px", padding: "0 2px", color: word.subject ? "#fff" : "var(--input-text)",
        background: word.subject ? "#b3261e" : "transparent", border: `1px ${word.choosable ? "solid" : "dashed"} var(--border-color)`,
        fontWeight: word.subject ? "bold" : "normal",
    };
    const title = t("{word}, tokens: {count}", { word: word.text, count: word.count });
    if (!chosen) {
        const why = word.choosable ? title : `${title}. ${t("An embedding has no words, so it cannot be the subject.")}`;
        return element("span", { class: "diff-quickfix-fixed", title: why, style }, ...tokens);
    }
    return element("button", {
        type: "button", "aria-pressed": String(word.subject), title, style: { ...style, cursor: "pointer" },
        on: { click: (event) => chosen(event.shiftKey) },
    }, ...tokens);
}

/**
 * The view of a node.
 * @param {ComfyNode} node
 */
export function make(node) {
    const chips = element("div", { role: "group", "aria-label": t("words of the prompt; shift and click for several"), style: { display: "flex", flexWrap: "wrap", gap: "3px" } });
    const said = element("div", { "aria-live": "polite", style: { ...SMALL, marginTop: "4px" } });
    const root = element("div", {
        class: "diff-quickfix-tokens",
        style: {
            padding: "6px", boxSizing: "border-box", overflow: "auto", width: "100%", height: "100%", color: "var(--input-text)",
            background: "var(--comfy-input-bg)", borderRadius: "6px",
        },
    }, chips, said);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    let asked = 0;
    let followed = "";
    /** The word that a click chose last: shift and click go on from there. @type {number | null} */
    let anchor = null;

    /** @returns {Read} */
    function read() {
        /** @param {string} name */
        const value = (name) => String(widgetOf(node, name)?.value ?? "");
        return {
            prompt: value("prompt"), subject: value("subject"), promptFed: isFed(node, "prompt"), subjectFed: isFed(node, "subject"),
        };
    }

    /**
     * @param {Word[]} words
     * @param {number} place
     * @param {boolean} extend
     */
    function choose(words, place, extend) {
        if (isFed(node, "subject") || isFed(node, "prompt")) return follow();
        const between = extend && anchor !== null ? words.slice(Math.min(anchor, place), Math.max(anchor, place) + 1) : [];
        const several = between.length && between.every(({ part, choosable }) => choosable && part === words[place]?.part);
        if (!extend) anchor = place;
        const chosen = several ? between : words.slice(place, place + 1);
        setWidget(node, "subject", chosen.map((word) => word.text).join(" "));
        follow(0);
    }

    /**
     * @param {string} text
     * @param {boolean} problem
     */
    function say(text, problem) {
        said.textContent = problem ? `\u26a0 ${text}` : text;
        said.style.fontWeight = problem ? "bold" : "normal";
        root.setAttribute("data-problem", String(problem));
    }

    /**
     * @param {ReturnType<typeof checked>} answer
     * @param {boolean} subjectFed
     */
    function show({ words, problem }, subjectFed) {
        const shown = subjectFed ? words.map((word) => ({ ...word, subject: false })) : words;
        chips.replaceChildren(...shown.map((word, place) => (
            chip(word, subjectFed || !word.choosable ? null : (extend) => choose(shown, place, extend)))));
        if (subjectFed) return say(t("The subject is fed by a link; disconnect it to choose here."), false);
        const count = words.reduce((sum, word) => sum + word.count, 0);
        say(problem || t("{count} tokens; the subject is marked. Click a word to choose it, shift and click for several.", { count }), Boolean(problem));
    }

    /**
     * Show no words, and say why.
     * @param {string} why
     */
    function withhold(why) {
        asked++; // An answer that is on its way comes too late.
        anchor = null;
        chips.replaceChildren();
        say(why, false);
    }

    /** @param {Read} now */
    async function ask({ prompt, subject, promptFed, subjectFed }) {
        if (promptFed) return withhold(t("The prompt is fed by a link; its words are known when it runs."));
        if (prompt.length > LONGEST) return withhold(t("Prompts of more than {count} characters are not shown here.", { count: LONGEST }));
        const number = ++asked;
        /** @type {unknown} */
        let answer = { problem: t("The tokens could not be read from the server.") };
        try {
            const reply = await api.fetchApi("/diff_quickfix/tokens", {
                method: "POST", headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ prompt, subject: subject.slice(0, LONGEST_SUBJECT) }),
            });
            answer = await reply.json();
        } catch { /* the problem above says it */ }
        if (number === asked) show(checked(answer), subjectFed);
    }

    /** Ask again when what the node reads has changed: typed, connected, disconnected, undone or set by another. */
    function follow(pause = PAUSE) {
        const now = read();
        const key = JSON.stringify(now);
        if (key === followed) return;
        followed = key;
        clearTimeout(timer);
        timer = setTimeout(() => ask(now), now.promptFed ? 0 : pause);
    }

    return {
        root,
        /** @param {string} sentence */
        refuse: (sentence) => say(sentence, true),
        restore: () => follow(0),
        look: () => follow(),
        dispose: () => clearTimeout(timer),
    };
}
