// An AudioWorklet: the microphone as PCM16, speech only. It opens well above the room's noise and closes after half a second of
// quiet; what came just before it opened goes along. Posts {samples: Int16Array}, {ended: true} and {level}.

const QUIET = 0.01 // of full scale: nobody speaks below this
const ABOVE = 3 // times the noise
const HOLD = 0.5 // seconds
const BEFORE = 0.2 // seconds

class Gate extends AudioWorkletProcessor {
  #kept = []
  #noise = QUIET / ABOVE
  #open = false
  #loud = 0 // when it was last loud, in samples
  #now = 0
  #piece = []

  process([[samples]]) {
    if (!samples) return true
    this.#piece.push(samples.slice())
    this.#now += samples.length
    if (this.#piece.length * samples.length >= 0.02 * sampleRate) this.#take()
    return true
  }

  #take() {
    const length = this.#piece.reduce((sum, part) => sum + part.length, 0)
    const samples = new Int16Array(length)
    let power = 0
    let at = 0
    for (const part of this.#piece) {
      for (const value of part) {
        power += value * value
        samples[at++] = Math.max(-1, Math.min(1, value)) * 32767
      }
    }
    this.#piece = []
    const level = Math.sqrt(power / length)
    this.port.postMessage({ level })
    if (level > Math.max(QUIET, ABOVE * this.#noise)) this.#loud = this.#now
    // Noise is what stays: down at once, up within some seconds.
    this.#noise = Math.min(level, this.#noise * 1.005 + 1e-6)
    this.#kept.push(samples)
    const loud = this.#loud > 0 && this.#now - this.#loud < HOLD * sampleRate
    if (loud) {
      for (const kept of this.#kept) this.port.postMessage({ samples: kept })
      this.#kept = []
    } else {
      if (this.#open) this.port.postMessage({ ended: true })
      while (this.#kept.length * length > BEFORE * sampleRate) this.#kept.shift()
    }
    this.#open = loud
  }
}

registerProcessor('gate', Gate)
