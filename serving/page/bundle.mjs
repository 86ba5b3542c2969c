/** Writes the page to `dist/`: what `serving/chat_page.py` serves, with the notices of what is in the bundle. */

import { chmod, cp, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const dist = join(here, "dist");

/** Names of the packages whose code is in the bundle, from the paths esbuild has read. */
function bundled(metafile) {
  const found = Object.keys(metafile.inputs).map((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  return [...new Set(found.filter(Boolean))].sort();
}

/** What a package's licence asks us to show; `notices/` has it for those that do not bring it along. */
async function notice(name) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const brought = ["LICENSE", "LICENSE.md", "LICENSE.txt", "license"].map((file) => join(folder, file));
  for (const file of [...brought, join(here, "notices", `${name.replace("/", "-")}.txt`)]) {
    const text = await readFile(file, "utf8").catch(() => "");
    if (text) return `${name} ${version} (${license})\n\n${text.trim()}\n`;
  }
  throw new Error(`${name}: brings no licence along; put its text into notices/`);
}

const made = await mkdtemp(join(here, "dist.tmp-"));
try {
  const { metafile } = await build({
    absWorkingDir: here,
    entryPoints: [
      { in: "src/main.ts", out: "page" },
      { in: "styles/page.css", out: "page" },
    ],
    bundle: true,
    splitting: true,
    format: "esm",
    target: ["chrome110", "firefox115", "safari16"],
    minify: true,
    legalComments: "none",
    chunkNames: "[name]-[hash]",
    outdir: made,
    // Niivue's reader of Zarr fetches these when it meets a compressed array; nobody sends one here
    external: ["numcodecs/*"],
    metafile: true,
    logLevel: "warning",
  });
  for (const file of ["index.html", "icon.svg"]) await cp(join(here, file), join(made, file));
  const notices = await Promise.all(bundled(metafile).map(notice));
  await writeFile(join(made, "notices.txt"), notices.join("\n----\n\n"));
  await chmod(made, 0o755); // an image's user is not the one who built it
  await rm(dist, { recursive: true, force: true });
  await rename(made, dist);
} finally {
  await rm(made, { recursive: true, force: true });
}
