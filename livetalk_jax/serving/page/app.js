// The page: what is chosen, what is said, what is seen.

import { Api, ServerError } from './api.js'
import { Figures } from './figures.js'
import { Motion, supported } from './player.js'
import { Session } from './session.js'
import { Microphone, sayFile } from './speech.js'

const $ = (id) => document.getElementById(id)
const api = new Api()
const video = $('video')
const figures = new Figures(api)
const motion = new Motion(video, (frame) => seen(frame))

let session = null
let microphone = null
let saying = null // AbortController of the file that is said
let portrait = null // a file of one's own
let chosen = '' // address of the portrait's picture
let silent = null // the moment of the video that an interruption is over at

// What the page shows

const STATES = { idle: 'Ready', opening: 'Starting', live: 'Live', reconnecting: 'Reconnecting' }

function show(state) {
  document.body.dataset.state = state
  $('status-text').textContent = STATES[state]
  for (const id of ['microphone', 'interrupt', 'sound']) $(id).disabled = state !== 'live'
  $('end').disabled = state === 'idle'
  for (const field of $('setup').elements) field.disabled = state !== 'idle'
  if (state !== 'live') $('speaking').hidden = true
}

function complain(error, after = 0) {
  $('error').hidden = false
  $('error-title').textContent = error.title ?? 'Something went wrong.'
  $('error-text').textContent = after ? `${error.message} Trying again in ${Math.ceil(after)} s.` : error.message
  if (error.code === 'unauthorized') $('token-field').hidden = false
}

$('error-close').onclick = () => ($('error').hidden = true)

// The field has the token that is valid now, so that the next conversation begins with it, unless another is being typed.
function useToken(token) {
  const field = $('token')
  field.value = token
  api.use(token, (fresh, old) => field.value === old && (field.value = fresh))
}

// Portraits

async function listPortraits() {
  let names = []
  try {
    names = await api.request('GET', '/v1/portraits')
  } catch (error) {
    complain(error)
  }
  for (const name of names) {
    const label = document.createElement('label')
    label.className = 'portrait'
    const radio = Object.assign(document.createElement('input'), { type: 'radio', name: 'portrait', value: name })
    const image = Object.assign(new Image(), { src: `/v1/portraits/${encodeURIComponent(name)}`, alt: '' })
    const thumb = Object.assign(document.createElement('span'), { className: 'thumb' })
    const text = Object.assign(document.createElement('span'), { className: 'name', textContent: name[0].toUpperCase() + name.slice(1) })
    thumb.append(image)
    label.append(radio, thumb, text)
    $('portraits').insertBefore(label, $('portraits').lastElementChild)
    radio.onchange = () => ($('still').src = chosen = image.src)
  }
  const first = $('portraits').querySelector('input')
  if (first.value) {
    first.checked = true
    first.onchange()
  }
}

function usePortrait(file) {
  portrait = file
  chosen = URL.createObjectURL(file)
  $('own').checked = true
  $('own-image').src = $('still').src = chosen
  $('own-image').hidden = false
}

// Choosing by keyboard only marks it; Enter, Space or a click asks for the file.
$('own').onclick = (event) => {
  if (event.detail > 0 || !portrait) $('portrait-file').click()
}
$('own').onchange = () => portrait && usePortrait(portrait)
$('own').onkeydown = (event) => event.key === 'Enter' && (event.preventDefault(), $('portrait-file').click())
$('portrait-file').onchange = ({ target }) => target.files[0] && usePortrait(target.files[0])

// A conversation

$('setup').onsubmit = async (event) => {
  event.preventDefault()
  $('error').hidden = true
  const fields = new FormData($('setup'))
  const name = fields.get('portrait')
  if (!name && !portrait) return complain({ title: 'No portrait.', message: 'Choose one, or drop a picture.' })
  useToken($('token').value.trim())
  const form = { prompt: $('prompt').value.trim(), ...(name ? { portrait_name: name } : { portrait }) }
  video.muted = false
  video.play().catch(() => {}) // while this is still the user's doing, so that sound may start later
  show('opening')
  session = new Session(api, video, motion, {
    state: (name) => {
      show(name)
      if (name === 'reconnecting') freeze()
    },
    message: heard,
    failed: complain,
    waiting: complain,
  })
  figures.begin(session)
  const words = await session.run(form, fields.get('transport')).catch(complain)
  await over()
  if (words) complain({ title: 'Over.', message: words })
  $('start').focus()
}

// Without a connection the last frame stays; browsers make a video black that lost its track.
async function freeze() {
  const frame = await motion.last()
  if (!frame || document.body.dataset.state !== 'reconnecting') return
  $('still').src = URL.createObjectURL(frame)
  delete document.body.dataset.seen
}

async function over() {
  saying?.abort()
  await stopMicrophone()
  figures.end()
  video.removeAttribute('src')
  video.srcObject = null
  video.load()
  $('still').src = chosen
  delete document.body.dataset.seen
  show('idle')
}

function heard(message) {
  figures.heard(message)
  switch (message.type) {
    case 'session':
      $('screen').style.aspectRatio = `${message.width} / ${message.height}`
      $('error').hidden = true
      if (message.state === 'live') show('live')
      if (microphone && session.transport.takesMicrophone) session.transport.microphone(microphone.track)
      break
    case 'state':
      show('live')
      break
    case 'speech_started':
      $('speaking').hidden = false
      break
    case 'speech_ended':
      $('speaking').hidden = true
      break
    case 'interrupted':
      $('speaking').hidden = true
      if (message.was_speaking) session.transport.silence(message.time)
      silent = session.transport.moment(message.time)
      if (session.transport.takesMicrophone) unmute()
      break
    case 'error':
      complain(new ServerError(message))
      break
  }
}

function seen(frame) {
  document.body.dataset.seen = ''
  figures.seen(frame)
  if (silent !== null && frame.mediaTime >= silent - 0.02) unmute()
}

function unmute() {
  silent = null
  video.muted = false
}

// Speech

function speak(samples, rate) {
  if (document.body.dataset.state !== 'live') return
  figures.spoke()
  session.say(samples, rate)
}

function pause() {
  session?.control('end_segment')
  figures.paused()
}

async function startMicrophone() {
  microphone = await Microphone.open({
    onspeech: (samples, rate) => (session?.transport?.takesMicrophone ? figures.spoke() : speak(samples, rate)),
    onpause: () => (session?.transport?.takesMicrophone ? figures.paused() : pause()),
    onlevel: (level) => ($('level').value = level),
  })
  if (!session?.transport) return stopMicrophone()
  if (session.transport.takesMicrophone) await session.transport.microphone(microphone.track)
  $('microphone').setAttribute('aria-pressed', 'true')
  $('microphone-text').textContent = 'Listening'
}

async function stopMicrophone() {
  const closing = microphone
  microphone = null
  $('microphone').setAttribute('aria-pressed', 'false')
  $('microphone-text').textContent = 'Speak'
  $('level').value = 0
  if (!closing) return
  if (session?.transport?.takesMicrophone) await session.transport.microphone(null).catch(() => {})
  pause()
  await closing.close()
}

$('microphone').onclick = () => (microphone ? stopMicrophone() : startMicrophone()).catch(complain)

async function sayThis(file) {
  saying?.abort()
  saying = new AbortController()
  await sayFile(file, { onspeech: speak, onpause: pause, signal: saying.signal }).catch(complain)
}

$('sound').onchange = ({ target }) => {
  if (target.files[0]) sayThis(target.files[0])
  target.value = ''
}

$('interrupt').onclick = () => {
  saying?.abort()
  video.muted = true
  silent = null
  session.control('interrupt')
  figures.paused()
  setTimeout(unmute, 2000) // whatever happens
}

$('end').onclick = () => session?.end()
addEventListener('pagehide', () => session?.end())

document.addEventListener('keydown', (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('textarea, input:not([type=radio])')) return
  if (event.key === 'Escape' && !$('interrupt').disabled) $('interrupt').click()
  if (event.key.toLowerCase() === 'm' && !$('microphone').disabled) $('microphone').click()
})

// Dropping files anywhere

document.addEventListener('dragover', (event) => {
  event.preventDefault()
  document.body.classList.add('dropping')
})
document.addEventListener('dragleave', (event) => event.relatedTarget || document.body.classList.remove('dropping'))
document.addEventListener('drop', (event) => {
  event.preventDefault()
  document.body.classList.remove('dropping')
  const [file] = event.dataTransfer.files
  const state = document.body.dataset.state
  if (!file) return
  if (file.type.startsWith('image/')) {
    if (state === 'idle') usePortrait(file)
    else complain({ title: 'Not now.', message: 'End this conversation to talk with somebody else.' })
  } else if (state === 'live') sayThis(file)
  else complain({ title: 'Not yet.', message: 'Start a conversation first, then drop the sound again.' })
})

if (!supported) {
  const [socket, peer] = $('setup').elements.transport
  socket.parentElement.hidden = peer.checked = true
}
useToken(new URLSearchParams(location.hash.slice(1)).get('token') ?? '')
show('idle')
await listPortraits()
