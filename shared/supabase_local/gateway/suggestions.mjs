// The name that was perhaps meant: the nearest one by the letters that two names share, and among
// those by how many letters are to be changed, as the library FuzzySet finds it for PostgREST.

const SIZES = [3, 2];
const COMPARED = 50;

export function nearest(names, asked, least = 0.33) {
  return alike(names, asked, least)[0]?.name ?? null;
}

// The names that are alike, the nearest first, each with how near it is, at most 1.
export function alike(names, asked, least = 0.33) {
  const wanted = asked.toLowerCase();
  const exact = names.find((name) => name.toLowerCase() === wanted);
  if (exact) return [{ name: exact, score: 1 }];
  for (const size of SIZES) {
    const found = scored(names, wanted, size).filter(({ score }) => score >= least);
    if (found.length > 0) return found;
  }
  return [];
}

function scored(names, wanted, size) {
  const grams = gramsOf(wanted, size);
  const shares = names
    .map((name) => ({ name, share: cosine(grams, gramsOf(name.toLowerCase(), size)) }))
    .filter(({ share }) => share > 0)
    .sort((one, other) => other.share - one.share)
    .slice(0, COMPARED);
  const near = ({ name }) => {
    const other = name.toLowerCase();
    return 1 - changes(other, wanted) / Math.max(other.length, wanted.length);
  };
  return shares
    .map((one) => ({ name: one.name, score: near(one) }))
    .sort((one, other) => other.score - one.score);
}

function gramsOf(name, size) {
  const text = `-${name.replace(/[^\p{L}\p{N}, ]/gu, "")}-`.padEnd(size, "-");
  const counts = new Map();
  for (let at = 0; at + size <= text.length; at += 1) {
    const gram = text.slice(at, at + size);
    counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return counts;
}

function cosine(one, other) {
  const length = (counts) => Math.hypot(...counts.values());
  const shared = [...one].reduce((sum, [gram, count]) => sum + count * (other.get(gram) ?? 0), 0);
  return shared / (length(one) * length(other));
}

// Levenshtein's distance.
function changes(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (const [at, letter] of [...one].entries()) {
    const next = [at + 1];
    for (let index = 0; index < other.length; index += 1) {
      const kept = row[index] + (letter === other[index] ? 0 : 1);
      next.push(Math.min(kept, row[index + 1] + 1, next[index] + 1));
    }
    row = next;
  }
  return row.at(-1);
}
