/** The conversation: takes questions, follows the answers, and keeps what was said for the next question. */

import { announce } from "./announce.ts";
import { Refused, type Api } from "./api.ts";
import { byId, element } from "./element.ts";
import { Conversation, type Asked } from "./question.ts";
import { save } from "./saving.ts";
import { stowing } from "./stowing.ts";
import { suggestionsFor } from "./suggestions.ts";
import { Turn, type TurnSurroundings } from "./turn.ts";
import type { Viewer } from "./viewer.ts";
import type { Answer } from "./wire.ts";

const NEAR_THE_END = 40;

export class Chat {
  private readonly api: Api;
  private readonly viewer: Viewer;
  private readonly question = byId("question", HTMLTextAreaElement);
  private readonly whole = byId("whole-volume", HTMLInputElement);
  private readonly log = byId("log", HTMLElement);
  private readonly turns = byId("turns", HTMLElement);
  private readonly conversation = new Conversation();
  private running: AbortController | undefined;
  private suggested: readonly string[] | undefined;
  private isAtEnd = true;

  constructor(api: Api, viewer: Viewer) {
    this.api = api;
    this.viewer = viewer;
    const form = byId("composer", HTMLFormElement);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    this.log.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.log;
      this.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    });
    this.whole.addEventListener("change", () => this.see());
    byId("stop", HTMLButtonElement).addEventListener("click", () => this.running?.abort());
    byId("anew", HTMLButtonElement).addEventListener("click", () => this.clear());
  }

  /** The stage has moved, so a question would be about something else. */
  see(): void {
    byId("whole-field", HTMLElement).hidden = !this.hasSlices;
    byId("about", HTMLElement).textContent = this.about();
    this.suggest();
  }

  private get hasSlices(): boolean {
    const { shownStudy, sliceIndex } = this.viewer;
    return shownStudy !== undefined && sliceIndex !== undefined && shownStudy.num_slices > 1;
  }

  private about(): string {
    const { shownStudy, sliceIndex } = this.viewer;
    if (!shownStudy) return "without a study";
    if (sliceIndex === undefined) return "about this picture";
    return this.hasSlices && this.whole.checked ? `about all ${shownStudy.num_slices} slices` : `about slice ${sliceIndex + 1}`;
  }

  /** Another study: another patient perhaps, so nothing said before goes with it. */
  clear(): void {
    this.running?.abort();
    this.conversation.clear();
    this.whole.checked = false;
    this.turns.replaceChildren();
    byId("welcome", HTMLElement).hidden = false;
    byId("anew", HTMLElement).hidden = true;
    this.see();
  }

  private suggest(): void {
    const { shownStudy, modality } = this.viewer;
    const questions = suggestionsFor(shownStudy && (modality ?? shownStudy.modality));
    if (this.suggested === questions) return;
    this.suggested = questions;
    const buttons = questions.map((text) => {
      const button = element("button", { type: "button", class: "suggestion" }, text);
      button.addEventListener("click", () => this.ask({ ...this.asked(), text }));
      return button;
    });
    byId("suggestions", HTMLElement).replaceChildren(...buttons);
  }

  private submit(): void {
    const text = this.question.value.trim();
    if (!text || this.running) return;
    this.question.value = "";
    void this.ask({ ...this.asked(), text });
  }

  private asked(): Omit<Asked, "text"> {
    const withExperts = byId("with-experts", HTMLInputElement).checked;
    const { shownStudy: study, sliceIndex, modality } = this.viewer;
    return { study, sliceIndex, modality, withExperts, wholeVolume: this.hasSlices && this.whole.checked };
  }

  private async ask(asked: Asked): Promise<void> {
    if (this.running) return;
    const running = (this.running = new AbortController());
    const turn = new Turn(asked, this.around());
    byId("welcome", HTMLElement).hidden = true;
    byId("anew", HTMLElement).hidden = false;
    this.turns.append(turn.root);
    this.busy(true);
    this.isAtEnd = true;
    this.follow();
    turn.root.scrollIntoView({ block: "nearest" });
    announce("Asked; the model is answering");
    try {
      await this.listen(turn, running.signal);
    } catch (error) {
      if (running.signal.aborted) turn.fail("Stopped.");
      else turn.fail(error instanceof Refused ? error.message : "The answer broke off; ask again.");
    } finally {
      turn.stop();
      this.follow();
      if (this.running === running) this.busy(false);
    }
  }

  private async listen(turn: Turn, signal: AbortSignal): Promise<void> {
    let answer: Answer | undefined;
    let id = "";
    for await (const chunk of this.api.ask(this.conversation.request(turn.asked), signal)) {
      if (chunk.error) throw new Refused(chunk.error.message, 500);
      id = chunk.id ?? id;
      const content = chunk.choices?.[0]?.delta.content;
      if (content) turn.add(content);
      if (chunk.vilam3) answer = turn.take(chunk.vilam3) ?? answer;
      this.follow();
    }
    if (!answer) throw new Refused("The answer broke off before its end; ask again.", 500);
    this.conversation.answered(turn.asked, answer.answer);
    this.report(turn, id);
    if (this.api.stows && answer.expert_calls.some((call) => call.segmentation_url)) turn.offer(stowing(this.api, id));
  }

  /** Offer the answer with everything measured, as a document. */
  private report(turn: Turn, id: string): void {
    const download = element("button", { type: "button", class: "link" }, "Download report (JSON)");
    download.addEventListener("click", () => void save(this.api, `v1/results/${id}/report.json`, `${id}.json`));
    const print = element("button", { type: "button", class: "link" }, "Print");
    print.addEventListener("click", () => window.print());
    turn.offer(download, print);
  }

  private around(): TurnSurroundings {
    return {
      announce,
      picture: async (url) => URL.createObjectURL(await this.api.blob(url)),
      save: (url, name) => void save(this.api, url, name),
      show: (call, labels, goes) => void this.viewer.show(call, labels, goes),
      revisit: (asked) => this.viewer.goTo(asked.sliceIndex),
      again: (asked) => void this.ask(asked),
    };
  }

  private busy(isBusy: boolean): void {
    if (!isBusy) this.running = undefined;
    byId("send", HTMLElement).hidden = isBusy;
    byId("stop", HTMLElement).hidden = !isBusy;
    for (const button of document.querySelectorAll<HTMLButtonElement>(".suggestion")) button.disabled = isBusy;
  }

  /** Keep the newest in sight, unless the reader has scrolled back. */
  private follow(): void {
    if (this.isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}
