// A film while it is made: the server's stream, piece by piece as it comes, into a plain video element. A browser that
// is only given the address waits for many pieces before it shows the first. Returns what stops it.
everreel.live = (video, address, again) => {
  const Source = window.ManagedMediaSource || window.MediaSource;
  if (!Source) {
    video.src = address;
    return () => {};
  }
  const stop = new AbortController();
  const source = new Source();
  const url = URL.createObjectURL(source);
  video.disableRemotePlayback = true; // a managed source asks for it
  video.src = url;
  const once = (target, name) => new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

  // "avcC" is followed by a version, and then by profile, constraints and level, as the codec's name has them.
  const codecOf = (bytes) => {
    for (let at = 0; at + 8 <= bytes.length; at++) {
      if (bytes[at] === 97 && bytes[at + 1] === 118 && bytes[at + 2] === 99 && bytes[at + 3] === 67) {
        return `avc1.${[...bytes.slice(at + 5, at + 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
      }
    }
    return null;
  };
  const append = async (buffer, bytes) => {
    for (let tries = 0; ; tries++) {
      try {
        buffer.appendBuffer(bytes);
        return await once(buffer, "updateend");
      } catch (error) {
        if (error.name !== "QuotaExceededError" || tries > 2) throw error;
        const until = Math.max(video.currentTime - 5, 0.1); // what was seen may go
        buffer.remove(0, until);
        await once(buffer, "updateend");
      }
    }
  };
  const run = async () => {
    if (source.readyState !== "open") await once(source, "sourceopen");
    const answer = await fetch(address, { signal: stop.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const reader = answer.body.getReader();
    let head = new Uint8Array();
    let buffer = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (buffer) {
        await append(buffer, value);
        continue;
      }
      const joined = new Uint8Array(head.length + value.length);
      joined.set(head);
      joined.set(value, head.length);
      head = joined;
      const codec = codecOf(head);
      if (!codec) continue;
      buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
      await append(buffer, head);
    }
    if (source.readyState === "open") source.endOfStream();
  };
  run().catch(() => {
    if (!stop.signal.aborted) again();
  });
  return () => {
    stop.abort();
    URL.revokeObjectURL(url);
  };
};
