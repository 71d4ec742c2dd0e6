// Where speech comes from: the microphone, or a sound file.

import { ServerError } from './api.js'

const FILE_RATE = 16_000
const PIECE = 0.25 // seconds of a message
const AHEAD = 8 // seconds of a file that are sent before they are heard

export class Microphone {
  // onspeech(samples, rate), onpause(), onlevel(0 to 1)
  static async open({ onspeech, onpause, onlevel }) {
    if (!navigator.mediaDevices) {
      throw new ServerError({ code: 'microphone', message: 'Browsers give it to pages of HTTPS or of this machine only.' })
    }
    let stream
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
      })
    } catch (error) {
      const message = error.name === 'NotAllowedError' ? 'Allow it beside the address, then try again.' : error.message
      throw new ServerError({ code: 'microphone', message })
    }
    const context = new AudioContext()
    await context.audioWorklet.addModule('/page/gate.js')
    const gate = new AudioWorkletNode(context, 'gate', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' })
    gate.port.onmessage = ({ data }) => {
      if (data.level !== undefined) onlevel(Math.min(1, data.level * 4))
      else if (data.ended) onpause()
      else onspeech(data.samples, context.sampleRate)
    }
    context.createMediaStreamSource(stream).connect(gate)
    return new Microphone(stream, context)
  }

  constructor(stream, context) {
    Object.assign(this, { stream, context })
  }

  get track() {
    return this.stream.getAudioTracks()[0]
  }

  close() {
    this.track.stop()
    return this.context.close()
  }
}

// Send a file's sound, a little ahead of time; stops when `signal` is aborted.
export async function sayFile(file, { onspeech, onpause, signal }) {
  let sound
  try {
    sound = await new OfflineAudioContext(1, 1, FILE_RATE).decodeAudioData(await file.arrayBuffer())
  } catch {
    throw new ServerError({ code: 'sound', message: `${file.name} is no sound that this browser reads.` })
  }
  const mono = new Float32Array(sound.length)
  for (let i = 0; i < sound.numberOfChannels; i++) {
    sound.getChannelData(i).forEach((value, at) => (mono[at] += value / sound.numberOfChannels))
  }
  const samples = Int16Array.from(mono, (value) => Math.max(-1, Math.min(1, value)) * 32767)
  const began = performance.now()
  for (let at = 0; at < samples.length && !signal.aborted; at += PIECE * FILE_RATE) {
    const early = at / FILE_RATE - AHEAD - (performance.now() - began) / 1000
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early * 1000))
    if (!signal.aborted) onspeech(samples.slice(at, at + PIECE * FILE_RATE), FILE_RATE)
  }
  if (!signal.aborted) onpause()
}
