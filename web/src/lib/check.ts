// Small checks of what came as JSON: each takes any value and gives back a typed one, or says what is wrong with it.
// Objects are rebuilt from the fields that are known, so that nothing else of them goes on.

/** What is wrong with a value, and where in it. */
export class Wrong extends Error {
  constructor(what: string, path: string) {
    super(`${path || 'value'}: ${what}`);
  }
}

export type Check<T> = (value: unknown, path: string) => T;
export type Out<C> = C extends Check<infer T> ? T : never;

export const text: Check<string> = (value, path) => {
  if (typeof value !== 'string') throw new Wrong('not a text', path);
  return value;
};

/** A number that is not negative: bytes, times, counts. */
export const count: Check<number> = (value, path) => {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) throw new Wrong('not a count', path);
  return value;
};

export const number: Check<number> = (value, path) => {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new Wrong('not a number', path);
  return value;
};

export const flag: Check<boolean> = (value, path) => {
  if (typeof value !== 'boolean') throw new Wrong('not true or false', path);
  return value;
};

export const any: Check<unknown> = (value) => value;

export const exactly =
  <T extends string>(word: T): Check<T> =>
  (value, path) => {
    if (value !== word) throw new Wrong(`not ${word}`, path);
    return word;
  };

export const oneOf =
  <T extends string>(...words: T[]): Check<T> =>
  (value, path) => {
    const found = words.find((word) => word === value);
    if (found === undefined) throw new Wrong(`none of ${words.join(', ')}`, path);
    return found;
  };

export const list =
  <T>(item: Check<T>): Check<T[]> =>
  (value, path) => {
    if (!Array.isArray(value)) throw new Wrong('not a list', path);
    return value.map((entry, at) => item(entry, `${path}[${at}]`));
  };

/** The value, or `fallback` where there is none. */
export const or =
  <T>(item: Check<T>, fallback: () => T): Check<T> =>
  (value, path) =>
    value === undefined || value === null ? fallback() : item(value, path);

type Fields = Record<string, Check<unknown>>;
type Shape<R extends Fields, O extends Fields> = { [K in keyof R]: Out<R[K]> } & { [K in keyof O]?: Out<O[K]> };

/** An object with these fields, and perhaps those. */
export function shape<R extends Fields, O extends Fields = Record<never, never>>(
  required: R,
  optional?: O,
): Check<Shape<R, O>> {
  const must = Object.entries(required);
  const may = Object.entries(optional ?? {});
  return (value, path) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Wrong('not an object', path);
    const from = value as Record<string, unknown>;
    const to: Record<string, unknown> = {};
    const at = path === '' ? '' : `${path}.`;
    for (const [key, check] of must) to[key] = check(from[key], at + key);
    for (const [key, check] of may) {
      const field = from[key];
      if (field !== undefined && field !== null) to[key] = check(field, at + key);
    }
    return to as Shape<R, O>;
  };
}

/** One of several shapes, told apart by a field. */
export function tagged<M extends Record<string, Check<object>>>(
  tag: string,
  shapes: M,
): Check<{ [K in keyof M]: Out<M[K]> }[keyof M]> {
  const known = new Map(Object.entries(shapes));
  return (value, path) => {
    const word = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[tag] : undefined;
    const check = typeof word === 'string' ? known.get(word) : undefined;
    if (check === undefined) throw new Wrong(`unknown ${tag} ${JSON.stringify(word)?.slice(0, 40)}`, path);
    return check(value, path) as never;
  };
}

/** Both at once: the fields of the one and of the other. */
export const both =
  <A extends object, B extends object>(a: Check<A>, b: Check<B>): Check<A & B> =>
  (value, path) => ({ ...a(value, path), ...b(value, path) });

/** The checked value, or what is wrong with it, in words. */
export function judge<T>(check: Check<T>, value: unknown): { value: T } | { wrong: string } {
  try {
    return { value: check(value, '') };
  } catch (error) {
    return { wrong: error instanceof Error ? error.message : String(error) };
  }
}
