// A detector in an ONNX file of `effdet export`, run by onnxruntime-web: from an image to boxes with names and scores.
// The page around it is index.html.

const METADATA = 14; // the field metadata_props of the protobuf message ModelProto

/**
 * Reads a model.
 *
 * @param {object} ort - The module onnxruntime-web.
 * @param {ArrayBuffer} buffer - The content of the ONNX file.
 * @returns {Promise<{card: object, names: string[], size: number[], detect: function}>} What the file says about itself,
 *   the names of the classes, [height, width] of the input, and the function that runs it, see `detect`.
 */
export async function openDetector(ort, buffer) {
  const text = readMetadata(new Uint8Array(buffer)).get("effdet");
  if (text === undefined) {
    throw new Error("The file has no metadata of effdet. Write it with: effdet export --format onnx");
  }
  const card = JSON.parse(text);
  if (card.face !== "detections") {
    throw new Error(`The file has the outputs "${card.face}". Export it with --face detections.`);
  }
  const session = await ort.InferenceSession.create(buffer, { executionProviders: ["wasm"] });
  const size = card.model.spec.image_size;
  const detect = (image) => run(ort, session, card, image);
  return { card, names: card.model.class_names, size, detect };
}

/**
 * Detects objects.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image - RGBA pixels, as of a canvas.
 * @returns {Promise<{detections: object[], milliseconds: number}>} Objects {box: [left, top, right, bottom] in pixels of
 *   the image, score, label, name}, sorted by descending score, and the time of the network.
 */
async function run(ort, session, card, image) {
  const { spec, class_names: names } = card.model;
  const { pixels, scale } = letterbox(image, spec);
  const [height, width] = spec.image_size;
  const start = performance.now();
  const outputs = await session.run({ images: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
  const milliseconds = performance.now() - start;
  const [boxes, scores] = [outputs.boxes.data, outputs.scores.data];
  const [vertical, horizontal] = scale;
  const clip = (value, limit) => Math.min(Math.max(value, 0), limit);
  const detections = [];
  for (let row = 0; row < Number(outputs.counts.data[0]); row++) {
    const [left, top, right, bottom] = boxes.subarray(4 * row, 4 * row + 4);
    const label = Number(outputs.labels.data[row]);
    detections.push({
      box: [
        clip(left / horizontal, image.width),
        clip(top / vertical, image.height),
        clip(right / horizontal, image.width),
        clip(bottom / vertical, image.height),
      ],
      score: scores[row],
      label,
      name: names[label],
    });
  }
  return { detections, milliseconds };
}

/**
 * Fits an image into the input, as the model saw its training images.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image - RGBA pixels.
 * @param {object} spec - Of the model.
 * @returns {{pixels: Uint8Array, scale: number[]}} RGB pixels of the input, and input pixels per pixel of the image,
 *   [vertical, horizontal].
 */
export function letterbox(image, spec) {
  const [height, width] = spec.image_size;
  let [rows, columns] = [height, width];
  if (spec.letterbox !== "stretch") {
    const scale = Math.min(height / image.height, width / image.width);
    rows = Math.min(Math.max(rounded(image.height * scale), 1), height);
    columns = Math.min(Math.max(rounded(image.width * scale), 1), width);
  }
  const fill = spec.black_padding ? [0, 0, 0] : spec.backbone.mean.map(rounded);
  const pixels = new Uint8Array(height * width * 3);
  for (let index = 0; index < pixels.length; index++) pixels[index] = fill[index % 3];
  const resized = resize(rgb(image), image.height, image.width, rows, columns, spec.antialias);
  for (let row = 0; row < rows; row++) {
    pixels.set(resized.subarray(row * columns * 3, (row + 1) * columns * 3), row * width * 3);
  }
  return { pixels, scale: [rows / image.height, columns / image.width] };
}

/** The nearest whole number; halves become even numbers, as in Python. */
function rounded(value) {
  const whole = Math.round(value);
  return whole - value === 0.5 && whole % 2 !== 0 ? whole - 1 : whole;
}

/** RGB pixels of an RGBA image. */
function rgb(image) {
  const pixels = new Uint8ClampedArray(image.width * image.height * 3);
  for (let from = 0, to = 0; from < image.data.length; from += 4) {
    pixels[to++] = image.data[from];
    pixels[to++] = image.data[from + 1];
    pixels[to++] = image.data[from + 2];
  }
  return pixels;
}

/** Bilinear resize of RGB pixels; with antialiasing the filter becomes wider where the image shrinks, as in Pillow. */
function resize(pixels, height, width, rows, columns, antialias) {
  if (rows === height && columns === width) return pixels;
  const narrow = new Uint8ClampedArray(height * columns * 3); // rounds to whole numbers
  taps(width, columns, antialias).forEach(({ first, weights }, column) => {
    for (let row = 0; row < height; row++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        let from = (row * width + first) * 3 + channel;
        for (const weight of weights) {
          sum += weight * pixels[from];
          from += 3;
        }
        narrow[(row * columns + column) * 3 + channel] = sum;
      }
    }
  });
  const resized = new Uint8ClampedArray(rows * columns * 3);
  const stride = columns * 3;
  taps(height, rows, antialias).forEach(({ first, weights }, row) => {
    for (let offset = 0; offset < stride; offset++) {
      let sum = 0;
      let from = first * stride + offset;
      for (const weight of weights) {
        sum += weight * narrow[from];
        from += stride;
      }
      resized[row * stride + offset] = sum;
    }
  });
  return resized;
}

/** For each pixel of a resized side: the first pixel of the original that it is made of, and their weights. */
function taps(side, resized, antialias) {
  const scale = side / resized;
  const support = antialias ? Math.max(scale, 1) : 1;
  return Array.from({ length: resized }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const end = Math.min(side, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let pixel = first; pixel < end; pixel++) {
      weights.push(Math.max(0, 1 - Math.abs(pixel + 0.5 - centre) / support));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** The metadata of an ONNX file: a map of texts. onnxruntime-web does not give it. */
function readMetadata(bytes) {
  const metadata = new Map();
  for (const { number, value } of fields(bytes)) {
    if (number !== METADATA) continue;
    const entry = { 1: "", 2: "" };
    for (const inner of fields(value)) entry[inner.number] = new TextDecoder().decode(inner.value);
    metadata.set(entry[1], entry[2]);
  }
  return metadata;
}

/** The fields of a protobuf message that hold bytes. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (place >= bytes.length) throw new Error("The file is no ONNX file, or is damaged.");
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const key = varint();
    const [number, type] = [Math.floor(key / 8), key % 8];
    if (type === 0) varint();
    else if (type === 1) place += 8;
    else if (type === 5) place += 4;
    else if (type === 2) {
      const length = varint();
      place += length;
      if (place > bytes.length) throw new Error("The file is no ONNX file, or is damaged.");
      yield { number, value: bytes.subarray(place - length, place) };
    } else throw new Error("The file is no ONNX file, or is damaged.");
  }
}
