/** Questions that the model was trained to answer, offered by what is on the stage. */

const BY_MODALITY: Readonly<Record<string, readonly string[]>> = {
  CT: ["Is there a hepatic tumor?", "Segment the organs in the image", "Is there a pancreatic tumor?", "Describe the image"],
  MRI: ["What glioma grade is shown in the image?", "Segment the tumor in the image", "Is there an enhancing tumor?"],
  CXR: ["Is there evidence of an effusion?", "Is there evidence of cardiomegaly?", "What abnormalities are seen in this image?"],
};
const PLAIN: readonly string[] = ["What is shown in the image?"];
const NONE: readonly string[] = [];

export function suggestionsFor(modality: string | undefined): readonly string[] {
  if (modality === undefined) return NONE;
  return BY_MODALITY[modality] ?? PLAIN;
}
