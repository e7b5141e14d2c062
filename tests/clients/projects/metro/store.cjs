// usage: node store.cjs set|get ENDPOINT      Stores one value through Metro's own HttpStore, or reads it back.
const { HttpStore } = require(process.env.KURA_NPM_FOLDER + "/node_modules/metro-cache");

const key = Buffer.from("0123456789abcdef0123456789abcdef01234567", "hex");
const value = { dependencies: ["react"], output: [{ type: "js/module", data: { code: "greet('build cache');" } }] };
const [action, endpoint] = process.argv.slice(2);
const store = new HttpStore({ endpoint });

async function main() {
  if (action === "set") {
    await store.set(key, value);
    console.log("stored");
  } else {
    const found = await store.get(key);
    console.log(JSON.stringify(found) === JSON.stringify(value) ? "served from the cache" : `got ${JSON.stringify(found)}`);
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
