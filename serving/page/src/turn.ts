/** One question with everything that happens until its answer. */

import { element } from "./element.ts";
import { Finding, type Surroundings } from "./finding.ts";
import { provenance } from "./provenance.ts";
import type { Asked } from "./question.ts";
import { described } from "./words.ts";
import type { Answer, Typed } from "./wire.ts";

export interface TurnSurroundings extends Surroundings {
  /** Go to the slice that was asked about. */
  revisit(asked: Asked): void;
  /** What a listener hears. */
  announce(text: string): void;
  again(asked: Asked): void;
}

export class Turn {
  readonly root = element("li", { class: "turn" });
  readonly asked: Asked;
  private readonly around: TurnSurroundings;
  private readonly reply = element("div", { class: "reply" });
  private readonly text = element("p", { class: "text writing" });
  private readonly findings = new Map<number, Finding>();
  /** The reply so far: as events while it may still call an expert, and as content. */
  private pieces = "";
  private content = "";

  constructor(asked: Asked, around: TurnSurroundings) {
    this.asked = asked;
    this.around = around;
    this.reply.append(element("p", { class: "who" }, "Model"), this.text);
    this.root.append(this.question(), this.reply);
    this.write("");
  }

  /** Content of a chunk. */
  add(content: string): void {
    this.content += content;
    this.write(this.content);
  }

  /** A typed event; returns the answer when it is there. */
  take(event: Typed): Answer | undefined {
    switch (event.event) {
      case "reply.piece":
        this.pieces += event.text;
        if (!this.content) this.write(this.pieces);
        break;
      case "reply.finished":
        this.pieces = this.content = "";
        this.write(event.text);
        break;
      case "expert.started":
        this.begin(event.index, event.expert, event.argument);
        break;
      case "expert.progress":
        this.findings.get(event.index)?.advance(event.fraction);
        break;
      case "expert.finished":
      case "expert.failed":
        this.findings.get(event.index)?.end(event);
        this.around.announce(`${event.expert} ${event.error ? `failed: ${event.error}` : "has finished"}`);
        break;
      case "answer":
        this.conclude(event);
        return event;
    }
    return undefined;
  }

  /** The answer did not come. */
  fail(sentence: string): void {
    this.stop();
    const again = element("button", { type: "button", class: "plain" }, "Ask again");
    again.addEventListener("click", () => this.around.again(this.asked));
    this.reply.append(element("div", { class: "alert", role: "alert" }, element("p", {}, sentence), again));
  }

  /** Nothing more comes. */
  stop(): void {
    this.text.classList.remove("writing");
    if (!this.text.textContent) this.text.remove();
    for (const finding of this.findings.values()) finding.abandon();
  }

  private question(): HTMLElement {
    const { study, sliceIndex, wholeVolume, text } = this.asked;
    const said = element("div", { class: "question" }, element("p", { class: "who" }, "You"), element("p", { class: "text" }, text));
    if (!study) return said;
    const place = wholeVolume ? " · asked about the whole volume" : sliceIndex === undefined ? "" : ` · asked about slice ${sliceIndex + 1}`;
    const about = `${described(study)}${place}`;
    const back = element("button", { type: "button", class: "link quiet" }, about);
    back.addEventListener("click", () => this.around.revisit(this.asked));
    said.append(back);
    return said;
  }

  private begin(index: number, expert: string, argument: string): void {
    const spoken = this.text.textContent?.trim();
    if (spoken) this.reply.insertBefore(element("p", { class: "step" }, spoken), this.text);
    this.pieces = this.content = "";
    this.write("");
    const finding = new Finding(expert, argument, this.asked.wholeVolume ? led(this.around) : this.around);
    this.findings.set(index, finding);
    this.reply.insertBefore(finding.root, this.text);
    this.around.announce(`The model consults ${expert} ${argument}`);
  }

  private write(text: string): void {
    this.text.textContent = text;
  }

  private conclude(answer: Answer): void {
    this.text.classList.remove("writing");
    this.text.classList.add("final");
    this.write(answer.answer || "The model gave no answer.");
    for (const note of answer.notes) this.reply.append(element("p", { class: "note" }, note));
    for (const warning of answer.warnings) this.reply.append(element("p", { class: "note" }, `About the images: ${warning}`));
    this.reply.append(element("p", { class: "draft" }, answer.notice), provenance("Where this answer comes from", answer.provenance));
    this.around.announce(`Answer: ${answer.answer}. ${answer.notes.join(" ")}`);
  }

  /** Put what the answer's document can be had as below it. */
  offer(...actions: HTMLElement[]): void {
    this.reply.append(element("p", { class: "downloads" }, ...actions));
  }
}

/** Of a whole volume the reader has chosen no slice, so a finding leads to its own. */
function led(around: TurnSurroundings): TurnSurroundings {
  return { ...around, show: (call, labels) => around.show(call, labels, true) };
}
