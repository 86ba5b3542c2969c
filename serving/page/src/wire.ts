/** What the endpoint sends, as far as the page shows it; the fields are those of `serving/wire.py` and its neighbours. */

export interface Study {
  id: string;
  modality: string;
  num_slices: number;
  num_views: number;
  /** Names of the volumes in their order, such as MR sequences; empty for a flat picture. */
  volumes: string[];
  series: string;
  warnings: string[];
  /** Unix time. */
  created: number;
}

export interface Measurement {
  label: string;
  quantity: string;
  value: number;
  unit: string;
}

export type Facts = Record<string, string | number | boolean | null>;

export interface ExpertCall {
  expert: string;
  argument: string;
  round: number | null;
  text: string;
  error: string | null;
  seconds: number | null;
  overlay_url: string | null;
  mask_url: string | null;
  /** DICOM SEG, where the server writes one. */
  segmentation_url?: string | null;
  /** Colour name to label name, in the slice that was asked about. */
  colors: Record<string, string>;
  /** Label id in the mask to label name. */
  labels?: Record<string, string>;
  measurements: Measurement[];
  scores: Record<string, number>;
  provenance: Facts | null;
  /** Whether it was computed for an earlier question and remembered. */
  cached?: boolean;
}

export interface Answer {
  answer: string;
  expert_calls: ExpertCall[];
  notes: string[];
  warnings: string[];
  provenance: Facts;
  notice: string;
}

export type Typed =
  | { event: "reply.piece"; round: number; text: string }
  | { event: "reply.finished"; round: number; text: string }
  | { event: "expert.started"; index: number; round: number; expert: string; argument: string }
  | { event: "expert.progress"; index: number; fraction: number }
  | ({ event: "expert.finished"; index: number } & ExpertCall)
  | ({ event: "expert.failed"; index: number } & ExpertCall)
  | ({ event: "answer" } & Answer);

export interface Chunk {
  id?: string;
  choices?: { delta: { content?: string }; finish_reason: string | null }[];
  vilam3?: Typed;
  error?: { message: string; code?: string };
}

export interface Message {
  role: "user" | "assistant";
  content: string | Part[];
}

export type Part = { type: "text"; text: string } | { type: "image_url"; image_url: { url: string } };

export interface ChatRequest {
  model: "vilam3";
  stream: true;
  messages: Message[];
  slice_index?: number;
  scope?: "volume";
  modality?: string;
  experts?: boolean;
}
