/** Questions that the model was trained to answer, offered by what is on the stage. */

const BY_MODALITY: Readonly<Record<string, readonly string[]>> = {
  CT: ["Is there a hepatic tumor?", "Segment the organs in the image", "Is there a pancreatic tumor?"],
  MRI: ["What glioma grade is shown in the image?", "Is this a lower or a high grade glioma?"],
  CXR: ["Is there effusion?", "Is there cardiomegaly?", "Is there pneumothorax?", "Is there consolidation?"],
};
const PLAIN: readonly string[] = ["What is shown in the image?"];
const NONE: readonly string[] = [];

export function suggestionsFor(modality: string | undefined): readonly string[] {
  if (modality === undefined) return NONE;
  return BY_MODALITY[modality] ?? PLAIN;
}
