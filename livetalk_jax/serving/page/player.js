// Fragmented MP4 into a <video>, near its live edge; and the last frames that were seen.

const Source = self.ManagedMediaSource ?? self.MediaSource
export const supported = Boolean(Source)

const TARGET = 0.45 // seconds to stay behind the newest frame at most; a fragment is 0.16 s
const KEEP = 20 // seconds that were played and stay in memory

export class Player {
  // Times of the server's messages count from the beginning of its stream; `offset` is where that is in the video.
  offset = 0
  #queue = []
  #buffer = null

  constructor(video) {
    this.video = video
    this.source = new Source()
    video.disableRemotePlayback = true // ManagedMediaSource wants it
    this.url = URL.createObjectURL(this.source)
    video.src = this.url
    this.opened = new Promise((resolve) => this.source.addEventListener('sourceopen', resolve, { once: true }))
    this.timer = setInterval(() => this.#follow(), 200)
  }

  get end() {
    const { buffered } = this.video
    return buffered.length ? buffered.end(buffered.length - 1) : 0
  }

  // A new initialisation follows. fresh: of another stream, whose times begin at 0 again.
  async init(mime, fresh) {
    await this.opened
    if (!this.#buffer) {
      this.#buffer = this.source.addSourceBuffer(mime)
      this.#buffer.addEventListener('updateend', () => this.#next())
      return
    }
    this.#queue.push(() => {
      this.#buffer.abort()
      this.#buffer.changeType(mime)
      if (fresh) this.#buffer.timestampOffset = this.offset = this.end
    })
    this.#next()
  }

  append(data) {
    this.#queue.push(() => this.#buffer.appendBuffer(data))
    this.#next()
  }

  // Leave out what was buffered before this moment of the stream: an interruption.
  skipTo(time) {
    const moment = Math.min(time + this.offset, this.end - 0.05)
    if (moment > this.video.currentTime) this.video.currentTime = moment
  }

  #next() {
    while (this.#queue.length && this.#buffer && !this.#buffer.updating && this.source.readyState === 'open') {
      this.#queue.shift()()
    }
  }

  #follow() {
    const { video } = this
    if (!video.buffered.length) return
    const lag = this.end - video.currentTime
    const start = video.buffered.start(video.buffered.length - 1)
    if (video.currentTime < start) video.currentTime = start // a hole
    else if (lag > 3) video.currentTime = this.end - 0.2
    video.playbackRate = lag > TARGET + 0.25 ? 1.08 : 1
    if (video.paused) video.play().catch(() => {}) // a page in the background was stopped
    const first = video.buffered.start(0)
    if (video.currentTime - first > KEEP && !this.#queue.length) {
      this.#queue.push(() => this.#buffer.remove(0, video.currentTime - KEEP / 2))
      this.#next()
    }
  }

  close() {
    clearInterval(this.timer)
    this.#queue = []
    URL.revokeObjectURL(this.url)
  }
}

// Keeps the last frames that were seen, so that another server can carry on from them when this one is lost.
export class Motion {
  #ring = []
  #count = 0

  constructor(video, onframe, length = 5) {
    this.video = video
    this.length = length
    const frame = (now, metadata) => {
      // Tracks that have ended show black.
      if (video.srcObject?.active !== false) {
        this.#keep()
        onframe(metadata)
      }
      video.requestVideoFrameCallback(frame)
    }
    video.requestVideoFrameCallback?.(frame)
  }

  #keep() {
    const { videoWidth: width, videoHeight: height } = this.video
    if (!width) return
    if (this.#ring[0]?.width !== width || this.#ring[0]?.height !== height) this.forget()
    const slot = this.#count++ % this.length
    const canvas = (this.#ring[slot] ??= Object.assign(document.createElement('canvas'), { width, height }))
    canvas.getContext('2d').drawImage(this.video, 0, 0)
  }

  forget() {
    this.#ring = []
    this.#count = 0
  }

  // The newest as a picture; null before the first.
  last() {
    const canvas = this.#ring[(this.#count - 1) % this.length]
    return canvas ? new Promise((resolve) => canvas.toBlob(resolve, 'image/png')) : null
  }

  // PNG, one below the other, the oldest first; null before the first.
  async png() {
    const frames = this.#ring.map((_, i) => this.#ring[(this.#count + i) % this.#ring.length])
    if (!frames.length) return null
    const { width, height } = frames[0]
    const all = Object.assign(document.createElement('canvas'), { width, height: height * frames.length })
    frames.forEach((frame, i) => all.getContext('2d').drawImage(frame, 0, i * height))
    return new Promise((resolve) => all.toBlob(resolve, 'image/png'))
  }
}
